# REQUIRED INPUTS: records, metrics, predictions, examples and costs of runs (runs.smk)
# OUTPUTS: results/table_<name>.md, .csv, .tex
#          results/figures/<name>.svg
#          results/site/


rule table:
    input:
        unpack(table_records),
        spec=table_spec,
    output:
        markdown=report(
            "results/table_{table}.md",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "format": "Markdown"},
        ),
        csv=report(
            "results/table_{table}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "format": "CSV"},
        ),
        latex="results/table_{table}.tex",
    log:
        "results/logs/table/{table}.log",
    localrule: True
    conda:
        "../envs/lavish.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        out=subpath(output.markdown, strip_suffix=".md"),
    message:
        "Writing table {wildcards.table}"
    shell:
        "( set -x; lavish table --table {input.spec:q} --out {params.out:q} ) &> {log:q}"


rule figure:
    input:
        unpack(figure_records),
        spec=figure_spec,
    output:
        svg=report(
            "results/figures/{figure}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/figure/{figure}.log",
    localrule: True
    conda:
        "../envs/lavish.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    message:
        "Drawing figure {wildcards.figure}"
    shell:
        "( set -x; lavish figure --table {input.spec:q} --figure {wildcards.figure} --out {output.svg:q} ) &> {log:q}"


rule site:
    input:
        unpack(site_records),
        specs=site_specs,
    output:
        folder=directory("results/site"),
    log:
        "results/logs/site/site.log",
    localrule: True
    conda:
        "../envs/lavish.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        invocation=invocation,
    message:
        "Writing the results page"
    shell:
        "( set -x; lavish site --table {input.specs:q} --invocation={params.invocation:q} --out {output.folder:q} ) &> {log:q}"
