# REQUIRED INPUTS: prepared stores and weights (data.smk, weights.smk)
# OUTPUTS: results/trials/<task>-<hash>/trial<i>/seed<k>/record.json
#          results/runs/<task>-<hash>/tuning.json
#          results/runs/<task>-<hash>/seed<k>/         best.safetensors, history.csv, record.json
#          results/runs/<task>-<hash>/seed<k>/<split>/ metrics.json, predictions.parquet, examples.npz
#          results/runs/<task>-<hash>/seed<k>/test-<condition>-<hash>/ metrics.json, predictions.parquet
#          results/runs/<task>-<hash>/cost.json


# `ancient`: the hash in a run's name says which data and weights it has, and the times of their files do not, which a clock
# that jumps or a copy can turn round. The checkpoint has no such name, and is evaluated again when it changes.
#
# A trial of a hyperparameter search is a training of which only the record is kept. It reads no test split, and its seeds are
# none of the tables'.
rule trial:
    input:
        stores=ancient(training_stores),
        weights=ancient(backbone_weights),
        features=ancient(training_features("trial")),
    output:
        record="results/trials/{search}/trial{trial}/seed{seed}/record.json",
    log:
        "results/logs/trial/{search}-trial{trial}-seed{seed}.log",
    priority: 60
    conda:
        "../envs/lavish.yaml"
    threads: training_threads
    resources:
        gpu=gpu,
        mem_mb=4000,
        runtime=1440,
    params:
        config=search_config,
        data=prepared_folder,
        features=features_arguments,
        device=device_arguments,
        out=subpath(output.record, parent=True),
    message:
        "Trial {wildcards.trial} of the search {wildcards.search} with seed {wildcards.seed}"
    shell:
        "( set -x; lavish trial --config {params.config:q} --trial {wildcards.trial} --seed {wildcards.seed}"
        " --data {params.data:q} --weights {input.weights:q} {params.features:q} {params.device:q} --out {params.out:q} )"
        " &> {log:q}"


rule choose:
    input:
        trials=ancient(trial_records),
    output:
        choice=report(
            "results/runs/{run}/tuning.json",
            caption="../report/tuning.rst",
            category="Runs",
            subcategory="{run}",
            labels={"seed": "all", "file": "hyperparameter search"},
        ),
    log:
        "results/logs/choose/{run}.log",
    priority: 60
    localrule: True
    conda:
        "../envs/lavish.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        config=run_config,
        trials=trials_folder,
    message:
        "Choosing among the trials of {wildcards.run}"
    shell:
        "( set -x; lavish choose --config {params.config:q} --trials {params.trials:q} --out {output.choice:q} ) &> {log:q}"


# The state that an interrupted training resumes from is written beside the outputs, undeclared: Snakemake deletes the
# declared outputs of an interrupted job.
rule train:
    input:
        stores=ancient(training_stores),
        weights=ancient(backbone_weights),
        features=ancient(training_features("train")),
        tuned=ancient(choice),
    output:
        weights="results/runs/{run}/seed{seed}/best.safetensors",
        history="results/runs/{run}/seed{seed}/history.csv",
        record=report(
            "results/runs/{run}/seed{seed}/record.json",
            caption="../report/record.rst",
            category="Runs",
            subcategory="{run}",
            labels={"seed": "{seed}", "file": "record of the training"},
        ),
    log:
        "results/logs/train/{run}-seed{seed}.log",
    priority: 50
    conda:
        "../envs/lavish.yaml"
    threads: training_threads
    resources:
        gpu=gpu,
        mem_mb=4000,
        runtime=1440,
    params:
        config=run_config,
        data=prepared_folder,
        features=features_arguments,
        tuned=tuned_arguments,
        device=device_arguments,
        monitor=monitor_arguments,
        out=subpath(output.record, parent=True),
    message:
        "Training {wildcards.run} with seed {wildcards.seed}"
    shell:
        "( set -x; lavish train --config {params.config:q} --seed {wildcards.seed} --data {params.data:q}"
        " --weights {input.weights:q} {params.features:q} {params.tuned:q} {params.device:q} {params.monitor:q}"
        " --out {params.out:q} )"
        " &> {log:q}"


rule evaluate:
    input:
        stores=ancient(evaluation_stores),
        weights=ancient(backbone_weights),
        features=ancient(evaluated_features("evaluate")),
        tuned=ancient(choice),
        best="results/runs/{run}/seed{seed}/best.safetensors",
    output:
        metrics=report(
            "results/runs/{run}/seed{seed}/{split}/metrics.json",
            caption="../report/metrics.rst",
            category="Runs",
            subcategory="{run}",
            labels={"seed": "{seed}", "file": "metrics on {split}"},
        ),
        predictions="results/runs/{run}/seed{seed}/{split}/predictions.parquet",
    log:
        "results/logs/evaluate/{run}-seed{seed}-{split}.log",
    priority: 40
    conda:
        "../envs/lavish.yaml"
    threads: training_threads
    resources:
        gpu=gpu,
        mem_mb=4000,
        runtime=120,
    params:
        config=run_config,
        data=prepared_folder,
        features=features_arguments,
        tuned=tuned_arguments,
        device=device_arguments,
        run=subpath(input.best, parent=True),
    message:
        "Evaluating {wildcards.run}, seed {wildcards.seed}, on the split {wildcards.split}"
    shell:
        "( set -x; lavish evaluate --config {params.config:q} --seed {wildcards.seed} --data {params.data:q}"
        " --split {wildcards.split} --weights {input.weights:q} {params.features:q} --run {params.run:q}"
        " {params.tuned:q} {params.device:q} ) &> {log:q}"


# The test split under a condition of config/conditions.yaml. It trains nothing, and selects and calibrates nothing.
rule evaluate_condition:
    input:
        stores=ancient(evaluation_stores),
        weights=ancient(backbone_weights),
        features=ancient(undisturbed_features),
        encoder=ancient(disturbed_encoder),
        tuned=ancient(choice),
        best="results/runs/{run}/seed{seed}/best.safetensors",
    output:
        metrics="results/runs/{run}/seed{seed}/test-{condition}/metrics.json",
        predictions="results/runs/{run}/seed{seed}/test-{condition}/predictions.parquet",
    log:
        "results/logs/evaluate_condition/{run}-seed{seed}-{condition}.log",
    priority: 30
    conda:
        "../envs/lavish.yaml"
    threads: training_threads
    resources:
        gpu=gpu,
        mem_mb=4000,
        runtime=120,
    params:
        config=run_config,
        condition=condition_config,
        data=prepared_folder,
        features=features_arguments,
        encoder=disturbed_encoder_arguments,
        tuned=tuned_arguments,
        device=device_arguments,
        run=subpath(input.best, parent=True),
        out=subpath(output.metrics, parent=True),
    message:
        "Evaluating {wildcards.run}, seed {wildcards.seed}, under {wildcards.condition}"
    shell:
        "( set -x; lavish evaluate --config {params.config:q} --seed {wildcards.seed} --data {params.data:q}"
        " --split test --condition {params.condition:q} --weights {input.weights:q} {params.features:q}"
        " {params.encoder:q} {params.tuned:q} --run {params.run:q} --out {params.out:q} {params.device:q} ) &> {log:q}"


# For figures that show predictions: a few clips, the same ones for all runs on the same data.
rule examples:
    input:
        stores=ancient(evaluation_stores),
        weights=ancient(backbone_weights),
        features=ancient(evaluated_features("examples")),
        tuned=ancient(choice),
        best="results/runs/{run}/seed{seed}/best.safetensors",
    output:
        examples="results/runs/{run}/seed{seed}/{split}/examples.npz",
    log:
        "results/logs/examples/{run}-seed{seed}-{split}.log",
    priority: 40
    conda:
        "../envs/lavish.yaml"
    threads: training_threads
    resources:
        gpu=gpu,
        mem_mb=4000,
        runtime=30,
    params:
        config=run_config,
        data=prepared_folder,
        features=features_arguments,
        tuned=tuned_arguments,
        device=device_arguments,
        run=subpath(input.best, parent=True),
    message:
        "Examples of {wildcards.run}, seed {wildcards.seed}, on the split {wildcards.split}"
    shell:
        "( set -x; lavish examples --config {params.config:q} --seed {wildcards.seed} --data {params.data:q}"
        " --split {wildcards.split} --weights {input.weights:q} {params.features:q} --run {params.run:q}"
        " {params.tuned:q} {params.device:q} ) &> {log:q}"


# Needs neither data nor weights, and only tables need it: it has the lowest priority and runs while others wait.
rule cost:
    input:
        tuned=ancient(choice),
    output:
        cost=report(
            "results/runs/{run}/cost.json",
            caption="../report/cost.rst",
            category="Runs",
            subcategory="{run}",
            labels={"seed": "all", "file": "cost"},
        ),
    log:
        "results/logs/cost/{run}.log",
    priority: 0
    conda:
        "../envs/lavish.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        config=run_config,
        tuned=tuned_arguments,
    message:
        "Counting parameters and operations of {wildcards.run}"
    shell:
        "( set -x; lavish cost --config {params.config:q} {params.tuned:q} --out {output.cost:q} ) &> {log:q}"
