include: "workflow/Snakefile"


# Snakemake does not take the default target over from an included file.
workflow.default_target = "all"
