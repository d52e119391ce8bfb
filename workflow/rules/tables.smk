# REQUIRED INPUTS: records, metrics, predictions, examples and costs of runs (runs.smk)
# OUTPUTS: results/table_<name>.md, .csv, .tex
#          results/figures/<name>.svg


rule table:
    input:
        unpack(table_records),
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
        spec=table_spec,
        out=subpath(output.markdown, strip_suffix=".md"),
    message:
        "Writing table {wildcards.table}"
    shell:
        "( set -x; lavish table --table {params.spec:q} --out {params.out:q} ) &> {log:q}"


rule figure:
    input:
        unpack(figure_records),
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
    params:
        spec=figure_spec,
    message:
        "Drawing figure {wildcards.figure}"
    shell:
        "( set -x; lavish figure --table {params.spec:q} --figure {wildcards.figure} --out {output.svg:q} ) &> {log:q}"
