# Shared by the rules: the experiments that the configuration describes, and the inputs and parameters of each job.
import contextlib
import functools
import os
import queue
import shlex
import shutil
import signal
import sys
import sysconfig
import threading
import time
from base64 import urlsafe_b64decode
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile
from snakemake.logging import logger
from snakemake.utils import available_cpu_count

from lavish.config.hashing import canonical_json, digest
from lavish.errors import LavishError
from lavish.io.atomic import write_text
from lavish.io.locks import locked
from lavish.planning.experiments import load
from lavish.planning.frozen_features import audio_encoder_features, frozen_features
from lavish.planning.identities import MissingInput
from lavish.planning.run_labels import INDEX, update_index
from lavish.planning.search_spaces import one_trial
from lavish.runtime import fork_client
from lavish.runtime.gpus import gpu_is_visible, usable_gpus
from lavish.runtime.progress import show_progress


wildcard_constraints:
    table=r"\w+",
    figure=r"\w+",
    run=r"\w+-[0-9a-f]{8}",
    search=r"\w+-[0-9a-f]{8}",
    trial=r"\d+",
    composed=r"\w+-[0-9a-f]{8}",
    data=r"\w+-[0-9a-f]{8}",
    weights=r"[\w.]+-[0-9a-f]{8}",
    features=r"[\w.]+-[0-9a-f]{8}",
    split="train|val|test",
    condition=r"\w+-[0-9a-f]{8}",
    seed=r"\d+",


def or_stop(function, *arguments):
    """Call a function of the library; if it raises a LavishError, print its message and exit.

    Snakemake would print any exception together with the locations in the workflow that it passed through.
    """
    try:
        return function(*arguments)
    except LavishError as error:
        lack = lack_of_gpu() if isinstance(error, MissingInput) else ""
        logger.error(f"{error}\nBesides, {lack}" if lack else str(error))
        sys.exit(1)


def check_own_folder(folder):
    """Refuse a path whose braces Snakemake would take for wildcards of the environment's file; results may lie anywhere."""
    if set("{}") & set(folder):
        raise LavishError(
            f"Snakemake cannot read rules from a path with braces ('{folder}'): rename or move the folder."
        )


or_stop(check_own_folder, workflow.basedir)


def refuse_second_option():
    """Refuse a second `--configfile`: Snakemake takes the last one and says nothing of the others."""
    # An abbreviation is the same option; `--configfile a.yaml b.yaml` is right, and merges both.
    options = [word for word in sys.argv if word.startswith("--configf")]
    if workflow.is_main_process and len(options) > 1:
        raise LavishError("`--configfile` is there twice: give it once, with all files: `--configfile a.yaml b.yaml`")


or_stop(refuse_second_option)

# Snakemake merges the files into `config` key by key. That is wrong where a file selects another kind of something, such
# as assets from a folder instead of procedural ones: `load` then drops the keys of the former kind.
config_files = [
    Path("config/config.yaml"),
    *(Path(os.path.relpath(file)) for file in workflow.overwrite_configfiles),
]
# A job on another machine parses all this again. It trusts the checksums that the workflow has just computed: hundreds of
# jobs must not ask a shared file system about every file of a data set.
# Neither it nor a dry run asks the model hub what the revisions of weights stand for.
plan = functools.partial(
    load,
    trust_checksums=not workflow.is_main_process,
    ask_hub=workflow.is_main_process and not workflow.output_settings.dryrun,
)
experiments = or_stop(plan, config_files, workflow.config_settings.config)

# What each table and figure shows is a file, because it is an input of the table.
SPECIFICATIONS = ".snakemake/lavish"


def specification(kind, name, spec):
    """Return the file with what a table or figure shows. Its name has a hash of the content: what has changed is another
    input, and no other call in this folder changes what a running one reads.
    """
    return f"{SPECIFICATIONS}/{kind}_{name}-{digest(spec)}.json"


def write_specifications():
    """Write the files of all tables and figures whose inputs are here. Before Snakemake plans, because it lists their
    folder only once.
    """
    figures = [name for name in experiments.figure_names if experiments.figures[name] in experiments.tables]
    specs = [("table", name, table.spec) for name, table in experiments.tables.items()]
    specs += [("figure", name, experiments.figure(name).spec) for name in figures]
    for kind, name, spec in specs:
        path = Path(specification(kind, name, spec))
        with locked(path):
            if not path.is_file():
                write_text(path, canonical_json(spec))


if workflow.is_main_process:
    write_specifications()

# Jobs call the command `lavish` of the interpreter that planned them, wherever another one may be on the path. What
# `--sdm conda` activates for a job comes before it.
os.environ.update(PATH=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]))

# More jobs than processors slow each other down, so `--cores 8` on a machine with two processors means two.
processors = available_cpu_count()
if (workflow.global_resources["_cores"].value or 0) > processors:
    logger.info(f"This machine has {processors} processors: not more than {processors} cores will be used.")
    workflow.register_resource("_cores", processors)

# Cores that jobs with worker processes share. A cluster has more than this machine, and a job there gets its own.
on_cluster = workflow.global_resources["_nodes"].value is not None or not workflow.is_main_process
shared_cores = 16 if on_cluster else workflow.global_resources["_cores"].value or 1


def workers(part):
    """Return the worker processes of a job: a part of the cores, which leaves the others to pretraining, data sets and
    splits. No result depends on them.
    """
    return min(8, max(1, shared_cores // part))


def preparing_workers(wildcards):
    """Splits are prepared side by side. Training data from outside may be large, and nothing is composed beside them."""
    large = wildcards.split == "train" and not data_of(wildcards).composed
    return workers(2 if large else 4)


# The device comes from the configuration (`--config device=cuda`, or `config:` in a profile), because that reaches the
# jobs on other machines, and resources of the command line do not.
gpu = int(experiments.device == "cuda")
monitor_arguments = [] if experiments.monitor == "none" else ["--monitor", experiments.monitor]
device_arguments = ["--device", experiments.device] + gpu * ["--jobs-per-gpu", str(experiments.jobs_per_gpu)]


def share_gpus():
    """Let as many jobs run at a time as fit on the GPUs of this machine; each takes a free one when it starts.

    On other machines the scheduler of the cluster does both.
    """
    limit = workflow.global_resources.get("gpu").value
    if not gpu:
        if limit:
            raise WorkflowError("`--resources gpu` only limits; to run on GPUs, say `--config device=cuda`.")
        return
    global gpus
    gpus = usable_gpus()
    if gpus and limit is None:
        workflow.register_resource("gpu", gpus * experiments.jobs_per_gpu)


def check_device():
    """Say where jobs run and why; refuse them if they cannot run there. Not for calls that need no device."""
    jobs = [job for job in workflow.dag.needrun_jobs() if "device" in job.rule.params.keys()]
    setting = f"`device: {experiments.device_setting}`"
    if not jobs:
        return
    if not workflow.local_exec:
        if experiments.device_setting == "auto":
            raise LavishError(f"{setting} looks at this machine, but jobs run on others: say `device: cuda` or `cpu`.")
    elif gpu and gpus:
        logger.info(
            f"Jobs run on the GPU ({setting}), {gpus} found, {experiments.jobs_per_gpu} at a time on each "
            "(`jobs_per_gpu`); `--config device=cpu` would use the CPU."
        )
    elif gpu:
        from lavish.cost.cpu_time import describe

        trainings = [run_of(job.wildcards).config for job in jobs if job.rule.name == "train"]
        found = "found one" if experiments.device_setting == "auto" else "wants one"
        raise LavishError(
            f"torch finds no GPU that it can use here, and {setting} {found}. {describe(trainings)}To run on the CPU "
            "nevertheless: `--config device=cpu`."
        )
    elif experiments.device_setting == "auto":
        logger.info(f"Jobs run on the CPU: {setting} found no NVIDIA GPU here.")
    elif gpu_is_visible():
        logger.info(f"Jobs run on the CPU ({setting}), although there is a GPU: `--config device=auto` uses it.")


def lack_of_gpu():
    """Return what a call would be refused for, as far as it is known without torch: that this machine has no GPU."""
    if not gpu or on_cluster or not workflow.local_exec or gpu_is_visible():
        return ""
    return (
        f"`device: {experiments.device_setting}` wants a GPU, and this machine has no NVIDIA GPU to be seen: "
        "`--config device=cpu` uses the CPU."
    )


def foretell_device():
    """Say in a dry run what `device: auto` has chosen, and what the call would be refused for."""
    if experiments.device_setting == "auto" and not on_cluster:
        logger.info(
            "Jobs would run on the GPU: `device: auto` found an NVIDIA GPU here."
            if gpu
            else "Jobs would run on the CPU: `device: auto` found no NVIDIA GPU here."
        )
    if lack := lack_of_gpu():
        logger.info(f"This call would be refused: {lack}")


def take_lock():
    """Refuse to run beside another Snakemake in the same folder.

    Snakemake's own lock (switched off by `nolock` in the profiles) outlives a killed run and then refuses the next one
    until it is unlocked by hand. The kernel releases this lock when the process ends, even if it was killed.
    """
    global lock  # held as long as this process lives
    lock = FileLock(".snakemake/lavish.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise WorkflowError("Another Snakemake is running in this folder: wait until it has ended.") from None


def leave_the_future():
    """Give files that a clock left in the future, because it was ahead when they were made, the time of now.

    Snakemake would fail each job that reads them, and delete its outputs for being older than its inputs.
    """
    now = time.time()
    for folder, _, names in (*os.walk("results"), *os.walk(SPECIFICATIONS)):
        for file in (os.path.join(folder, name) for name in names):
            with contextlib.suppress(OSError):  # a link to nothing; what may not be written to, the jobs say
                if os.stat(file).st_mtime > now:
                    os.utime(file, (now, now))


def remove_incomplete():
    """Remove the outputs that killed jobs left, as Snakemake would do before it makes them again.

    While they exist, Snakemake makes only them, without what depends on them: it takes for granted that such jobs are
    run as well, and then leaves them out because their inputs are marked `ancient`.
    """
    notes = Path(".snakemake/incomplete")
    for note in [path for path in notes.rglob("*") if path.is_file()]:
        parts = note.relative_to(notes).parts  # those of a long name begin with @
        with contextlib.suppress(ValueError, OSError):
            output = Path(urlsafe_b64decode("".join(part.removeprefix("@") for part in parts)).decode())
            if output.is_dir():
                shutil.rmtree(output)
            else:
                output.unlink()


def prepared(function):
    """Take the lock, share the GPUs among jobs on this machine, correct the times of files and remove incomplete ones
    before a function of the workflow writes or deletes something. Dry runs and the jobs themselves do none of this; a dry run
    says where jobs would run.
    """

    @functools.wraps(function)
    def call(*arguments, **options):
        plugin = options.get("executor_plugin")
        dry = options.get("dryrun") or (plugin and plugin.common_settings.dryrun_exec)
        if workflow.is_main_process and not dry:
            take_lock()
            leave_the_future()
            if plugin and not (plugin.common_settings.touch_exec or workflow.execution_settings.ignore_incomplete):
                remove_incomplete()
            if plugin and plugin.common_settings.local_exec:
                share_gpus()
        if dry and function.__name__ == "execute":
            foretell_device()
        return function(*arguments, **options)

    return call


# Not in `onstart`, which neither `--delete-all-output` nor `--no-hooks` calls.
for name in ("execute", "delete_output", "cleanup_metadata", "cleanup_shadow"):
    setattr(workflow, name, prepared(getattr(workflow, name)))


def heed_signals():
    """Let SIGTERM and SIGINT end a call: nothing more starts, jobs that have finished are noted, then it ends.

    Snakemake's handler takes locks that the thread it interrupts may hold, and then hangs; KeyboardInterrupt may leave
    a finished job unnoted. So a handler only passes the signal on, to a thread.
    """
    received = queue.SimpleQueue()  # may be filled by a handler, whatever it has interrupted
    numbers = [signal.SIGTERM]
    # Other executors cancel the jobs of other machines on KeyboardInterrupt. A background process ignores SIGINT.
    if workflow.local_exec and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        numbers.append(signal.SIGINT)
    for number in numbers:
        signal.signal(number, lambda number, _: received.put(number))
    threading.Thread(target=end_after, args=(received,), daemon=True).start()


def end_after(received):
    """End this call after a signal. Snakemake waits for running jobs, which have got the signal if all processes have."""
    number = received.get()
    began = time.time() - 2  # jobs that start just then have not got the signal
    shell.prefix("exit 1; ")  # before the commands of jobs that are about to start
    workflow.scheduler.exit_gracefully()
    while workflow.local_exec:
        if number == signal.SIGINT:
            began = 0  # which asks for the end of all jobs
        with contextlib.suppress(queue.Empty):
            number = received.get(timeout=1)
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.create_time() >= began and child.pid != (fork_server and fork_server.pid):
                    for process in (*child.children(recursive=True), child):
                        process.terminate()


fork_server = None


def start_fork_server():
    """Start the process that jobs are forked from, unless `fork_server: false`: small jobs take longer to import
    their libraries than to run. It ends with this process. Jobs on other machines start their own interpreter.
    """
    global fork_server  # its standard input is open as long as this process lives
    if workflow.local_exec and experiments.fork_server:
        fork_server = fork_client.start()


def print_progress():
    """Print how many jobs are done, run and are to come, and when the last one may end."""
    show_progress(logger, {job.jobid: job.rule.name for job in workflow.dag.needrun_jobs()})


def write_index():
    """Write which rows of which tables the folders of runs belong to."""
    or_stop(update_index, INDEX, experiments.labels, experiments.tables)


def run_of(wildcards):
    """The run of a job; for a trial one of those that its search is for, which differ only in the number of trials."""
    if "search" in wildcards.keys():
        return or_stop(experiments.search, wildcards.search)
    return or_stop(experiments.run, wildcards.run)


def data_of(wildcards):
    return or_stop(experiments.data_set, wildcards.data)


def weights_of(wildcards):
    return or_stop(experiments.weights_named, wildcards.weights)


def features_of(wildcards):
    return or_stop(experiments.features_named, wildcards.features)


def condition_of(wildcards):
    return or_stop(experiments.condition, wildcards.condition)


def table_of(wildcards):
    return or_stop(experiments.table, wildcards.table)


def figure_of(wildcards):
    return or_stop(experiments.figure, wildcards.figure)


def store_file(data, split):
    return f"results/data/prepared/{data.name}/{split}/store.json"


def weights_file(weights):
    return f"results/weights/{'pretrained' if weights.pretrained else 'pinned'}/{weights.name}.safetensors"


# --- data ---


def composition(wildcards):
    data = or_stop(experiments.composition, wildcards.composed)
    return canonical_json(data.config.composition())


def composed_folder_is_done(wildcards):
    """The file that marks a composed folder as complete. A data set on disk has none: its checksum is in the store's name."""
    data = data_of(wildcards)
    return [f"results/data/composed/{data.composed}.done"] if data.composed else []


def official_folder(wildcards):
    data = data_of(wildcards)
    return f"results/data/composed/{data.composed}" if data.composed else str(data.config.root)


def data_config(wildcards):
    return canonical_json(data_of(wildcards).config)


# --- weights ---


def weights_kind(wildcards):
    return weights_of(wildcards).kind


def weights_config(wildcards):
    return canonical_json(weights_of(wildcards).config)


# --- features of frozen encoders ---


def normalising_store(wildcards):
    """For the backbone, the training split: its statistics normalise every split."""
    return [store_file(data_of(wildcards), "train")] if features_of(wildcards).kind == "backbone" else []


def encoder_weights(wildcards):
    return weights_file(features_of(wildcards).weights)


def encoder_kind(wildcards):
    return features_of(wildcards).kind


def encoder_config(wildcards):
    return canonical_json(features_of(wildcards).config)


def encoder_threads(wildcards):
    return features_of(wildcards).cpu_threads


def features_folder(run, features):
    return f"results/data/features/{run.data.name}/{features.name}"


def features_files(run, splits, outputs, disturbed=None):
    """Features that a run reads of the streams that are not disturbed: those of its separate audio encoder, and of its
    frozen backbone.

    A job that has made its outputs keeps the features of the backbone that it read, or its lack of them: another device
    and `cache_features` change neither its results nor its name, and other inputs would repeat it. What is forced or made
    again is made as the configuration says.
    """

    def files(features):
        return [
            f"{features_folder(run, one)}/{split}.npy"
            for stream, one in features.items()
            if one is not None and stream != disturbed
            for split in splits
        ]

    frozen, possible = files(experiments.frozen_features(run)), files(frozen_features(run))
    settings = workflow.dag_settings
    forced = settings.forceall or settings.forcetargets or settings.forcerun
    if possible and not forced and workflow.is_main_process and all(map(os.path.exists, outputs)):
        recorded = workflow.persistence.input(IOFile(outputs[0]))
        if recorded is not None:
            frozen = [file for file in possible if file in recorded]
    return files({"audio": audio_encoder_features(run)}) + frozen


# --- runs ---


def run_config(wildcards):
    return canonical_json(run_of(wildcards).config)


def training_stores(wildcards):
    """The splits that a training may read; the test split only if the run says `select_on: test`."""
    run = run_of(wildcards)
    return [store_file(run.data, split) for split in run.training_splits]


def evaluation_stores(wildcards):
    """The split itself, and the training split for its statistics, which normalise every split."""
    data = run_of(wildcards).data
    return [store_file(data, split) for split in dict.fromkeys([wildcards.get("split", "test"), "train"])]


def prepared_folder(wildcards):
    return f"results/data/prepared/{run_of(wildcards).data.name}"


def backbone_weights(wildcards):
    """The files of the backbone and, if the audio stream has its own, of that one."""
    run = run_of(wildcards)
    return [weights_file(weights) for weights in (run.backbone, run.audio_backbone) if weights is not None]


def outputs_of(rule, wildcards):
    return [output.format(**wildcards) for output in getattr(rules, rule).output]


def training_features(rule):
    """Return the input function of a rule that trains."""

    def features(wildcards):
        run = run_of(wildcards)
        return features_files(run, run.training_splits, outputs_of(rule, wildcards))

    return features


def evaluated_features(rule):
    """Return the input function of a rule that reads a split. Its job is made again with the checkpoint it reads."""

    def features(wildcards):
        outputs = outputs_of(rule, wildcards) + outputs_of("train", wildcards)
        return features_files(run_of(wildcards), [wildcards.split], outputs)

    return features


def undisturbed_features(wildcards):
    """Features on disk are those of the split as it is: a disturbed stream is encoded in the evaluation."""
    outputs = outputs_of("evaluate_condition", wildcards) + outputs_of("train", wildcards)
    return features_files(run_of(wildcards), ["test"], outputs, disturbed=condition_of(wildcards).stream)


def features_arguments(wildcards, input):
    """The options with the folders of the features that a job reads."""
    run = run_of(wildcards)
    found = [("--audio-features", "", audio_encoder_features(run))]
    found += [("--frozen-features", f"{stream}=", features) for stream, features in frozen_features(run).items()]
    folders = [(option, prefix, features_folder(run, one)) for option, prefix, one in found if one is not None]
    return [
        word
        for option, prefix, folder in folders
        if any(f"{folder}/" in file for file in input.features)
        for word in (option, f"{prefix}{folder}")
    ]


def disturbed_encoder(wildcards):
    """The separate audio encoder, which hears a sound that a condition changes."""
    encoder = run_of(wildcards).audio_encoder
    return [] if encoder is None or condition_of(wildcards).stream != "audio" else [weights_file(encoder)]


def disturbed_encoder_arguments(wildcards, input):
    return [word for file in input.encoder for word in ("--audio-encoder-weights", file)]


def condition_config(wildcards):
    return canonical_json(condition_of(wildcards))


def training_threads(wildcards):
    # On a CPU the results depend on the number of threads, so it is part of a run's configuration.
    return run_of(wildcards).config.training.cpu_threads


# --- hyperparameter search ---


def search_config(wildcards):
    """The configuration of a trial, which does not depend on how many there are."""
    config = run_of(wildcards).config
    return canonical_json(config.model_copy(update={"tuning": one_trial(config.tuning)}))


def trials_folder(wildcards):
    return f"results/trials/{run_of(wildcards).search}"


def trial_records(wildcards):
    search = run_of(wildcards).config.tuning
    return collect(
        "results/trials/{search}/trial{trial}/seed{seed}/record.json",
        search=run_of(wildcards).search,
        trial=range(search.trials),
        seed=search.seeds,
    )


def choice_of(run):
    """The values that a run's search has chosen, if it has one."""
    return [] if run.search is None else [f"{run.folder}/tuning.json"]


def choice(wildcards):
    return choice_of(run_of(wildcards))


def tuned_arguments(wildcards):
    return [word for file in choice(wildcards) for word in ("--tuned", file)]


# --- tables ---


def invocation(wildcards):
    """The options of this call that decide what is planned, for the commands that the results page shows."""
    files = [str(file) for file in config_files[1:]]
    given = sorted(workflow.config_settings.config.items())
    values = [f"{key}={value if isinstance(value, str) else canonical_json(value)}" for key, value in given]
    return shlex.join([*(["--configfile", *files] if files else []), *(["--config", *values] if values else [])])


def records(table):
    """The small files that a table or figure is made from, so that it can be remade without weights or data."""
    costs = {"costs": collect("results/runs/{run}/cost.json", run=[run.name for run in table.runs])}
    if not table.needs_results:
        return costs
    return {
        **costs,
        "choices": [file for run in table.runs for file in choice_of(run)],
        "metrics": collect(
            "results/runs/{run}/seed{seed}/test/{file}",
            run=[run.name for run in table.runs],
            seed=table.seeds,
            file=["metrics.json", "predictions.parquet"],
        ),
        "records": collect(
            "results/runs/{run}/seed{seed}/record.json",
            run=[run.name for run in table.runs],
            seed=table.seeds,
        ),
        "disturbed": [
            f"results/runs/{run}/seed{seed}/{folder}/{file}"
            for run, folder in table.evaluations
            for seed in table.seeds
            for file in ("metrics.json", "predictions.parquet")
        ],
    }


def table_records(wildcards):
    return records(table_of(wildcards))


def examples(figure):
    """Example predictions of each run, with the first seed only, because they are looked at and not averaged."""
    return {
        "examples": collect(
            "results/runs/{run}/seed{seed}/test/examples.npz",
            run=[run.name for run in figure.runs],
            seed=figure.seeds[0],
        )
    }


def figure_records(wildcards):
    figure = figure_of(wildcards)
    return examples(figure) if figure.draws_predictions else records(figure)


def table_spec(wildcards):
    return specification("table", wildcards.table, table_of(wildcards).spec)


def site_specs(wildcards):
    """The tables of the page: all that can be made on this machine."""
    return [specification("table", name, table.spec) for name, table in sorted(experiments.tables.items())]


def site_records(wildcards):
    """What the tables of the page are made from, and the example predictions that figures show."""
    found = {}
    for files in [
        *map(records, experiments.tables.values()),
        *(examples(figure) for figure in map(experiments.figure, experiments.figure_names) if figure.draws_predictions),
    ]:
        for kind, paths in files.items():
            found.setdefault(kind, {}).update(dict.fromkeys(paths))
    return {kind: list(paths) for kind, paths in found.items()}


def figure_spec(wildcards):
    return specification("figure", wildcards.figure, figure_of(wildcards).spec)
