# REQUIRED INPUTS: none, or a file of weights or the model hub (config: backbone.weights, audio_encoder.weights)
# OUTPUTS: results/weights/pretrained/<model>-<hash>.safetensors    trained in the workflow, with a .json of the recipe
#          results/weights/pinned/<model>-<hash>.safetensors        checked against their sha256, with a .json


rule pretrain:
    output:
        weights="results/weights/pretrained/{weights}.safetensors",
        description="results/weights/pretrained/{weights}.json",
    log:
        "results/logs/pretrain/{weights}.log",
    priority: 100
    conda:
        "../envs/lavish.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=4000,
        runtime=60,
    params:
        config=weights_config,
        kind=weights_kind,
        device=device_arguments,
    message:
        "Pretraining {wildcards.weights}"
    shell:
        "( set -x; lavish pretrain --kind {params.kind} --config {params.config:q} --out {output.weights:q}"
        " {params.device:q} ) &> {log:q}"


rule pin_weights:
    output:
        weights="results/weights/pinned/{weights}.safetensors",
        description="results/weights/pinned/{weights}.json",
    log:
        "results/logs/pin_weights/{weights}.log",
    priority: 90
    conda:
        "../envs/lavish.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        config=weights_config,
        kind=weights_kind,
    message:
        "Fetching and checking {wildcards.weights}"
    shell:
        "( set -x; lavish weights fetch --kind {params.kind} --config {params.config:q} --out {output.weights:q} ) &> {log:q}"
