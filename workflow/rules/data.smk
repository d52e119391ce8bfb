# REQUIRED INPUTS: none, or a data set in its official layout, or a folder of images and recordings (config: data)
# OUTPUTS: results/data/composed/<format>-<hash>/          a composed data set in its official layout
#          results/data/prepared/<format>-<hash>/<split>/   the store that training and evaluation read
#          results/data/features/<data>/<encoder>-<hash>/   features of frozen backbones and separate audio encoders


# Only a marker file is declared: Snakemake would delete a declared folder of an interrupted job, with all its clips.
rule compose:
    output:
        done=touch("results/data/composed/{composed}.done"),
    log:
        "results/logs/compose/{composed}.log",
    priority: 80
    conda:
        "../envs/lavish.yaml"
    threads: workers(4)
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        config=composition,
        out=subpath(output.done, strip_suffix=".done"),
    message:
        "Composing {wildcards.composed}"
    shell:
        "( set -x; lavish compose --config {params.config:q} --out {params.out:q} --jobs {threads} ) &> {log:q}"


# One job per split, so that no training waits for the test split or could read it. The arrays beside store.json are
# undeclared for the same reason as above: an interrupted job keeps what it has prepared.
rule prepare:
    input:
        ancient(composed_folder_is_done),
    output:
        store="results/data/prepared/{data}/{split}/store.json",
    log:
        "results/logs/prepare/{data}-{split}.log",
    priority: 70
    conda:
        "../envs/lavish.yaml"
    threads: preparing_workers
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        config=data_config,
        root=official_folder,
        out=subpath(output.store, parent=True),
    message:
        "Preparing split {wildcards.split} of {wildcards.data}"
    shell:
        "( set -x; lavish prepare --config {params.config:q} --root {params.root:q} --split {wildcards.split}"
        " --out {params.out:q} --jobs {threads} ) &> {log:q}"


rule encode:
    input:
        store=ancient("results/data/prepared/{data}/{split}/store.json"),
        statistics=ancient(normalising_store),
        weights=ancient(encoder_weights),
    output:
        features="results/data/features/{data}/{features}/{split}.npy",
    log:
        "results/logs/encode/{data}-{features}-{split}.log",
    priority: 60
    conda:
        "../envs/lavish.yaml"
    threads: encoder_threads
    resources:
        gpu=gpu,
        mem_mb=4000,
        runtime=120,
    params:
        kind=encoder_kind,
        config=encoder_config,
        data=subpath(input.store, parent=True),
        device=device_arguments,
    message:
        "Encoding split {wildcards.split} of {wildcards.data} with {wildcards.features}"
    shell:
        "( set -x; lavish encode --kind {params.kind} --config {params.config:q} --weights {input.weights:q}"
        " --data {params.data:q} --out {output.features:q} {params.device:q} ) &> {log:q}"
