"""How a study chooses settings: Optuna, on validation images, as many trials for each arm.

What is searched is one factor for the weights of all terms of a method, from an eighth to eight
times the published ones. The first trials have these, a quarter and four times; what follows is
proposed by Optuna's TPE sampler. A trial is a run with a seed that the study
does not use; it never reads a test image. Optuna keeps its trials in an SQLite file, so that a
study that was killed goes on with them.
"""

import dataclasses

import optuna
from studies.arms import Arm, Layout
from training import records

SEED = 1000
FIRST = (1.0, 0.25, 4.0)
_DISTRIBUTION = optuna.distributions.FloatDistribution(0.125, 8.0, log=True)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The trials of an arm on a pair of networks."""

    layout: Layout
    pair: str
    arm: Arm

    @property
    def name(self):
        return f"{self.pair} {self.arm.name}"

    def scale_weights(self, factor):
        """Return the changes that multiply the weights of the terms."""
        config = self.layout.make_run(self.pair, self.arm, SEED).load_config()
        return {
            f"terms.{name}.weight": float(f"{factor * row.weight:.4g}")
            for name, row in config.terms.items()
        }

    def make_run(self, trial, factor):
        """Return the run of a trial."""
        changes = self.scale_weights(factor) | {"test": False}
        arm = dataclasses.replace(self.arm, name=f"{self.arm.name}/trial{trial}")
        run = self.layout.make_run(self.pair, arm, SEED, changes, "tuning")
        cache = self.layout.make_run(self.pair, self.arm, SEED).changes.get("teacher_cache")
        if cache:
            run.changes["teacher_cache"] = cache
        return run

    def open(self):
        """Return Optuna's study, with the published weights as its first trial."""
        self.layout.folder.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{self.layout.folder / 'tuning.db'}",
            engine_kwargs={"connect_args": {"timeout": 60}},
        )
        return optuna.create_study(
            storage=storage, study_name=self.name, direction="maximize", load_if_exists=True
        )

    def search(self, act):
        """Do the trials that are not done; `act` does a run."""
        search, distributions = self.open(), {"factor": _DISTRIBUTION}
        for number in range(self.layout.study.trials):
            done = search.get_trials(states=[optuna.trial.TrialState.COMPLETE])
            if number < len(done):
                act(self.make_run(number, done[number].params["factor"]))
                continue
            asked, factor = None, FIRST[min(number, len(FIRST) - 1)]
            if number >= len(FIRST):
                # What is proposed depends on the trials that are done alone, not on kills.
                sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=len(FIRST))
                search.sampler = sampler
                asked = search.ask(distributions)
                factor = asked.params["factor"]
            run = self.make_run(number, factor)
            if not act(run):
                return
            value = records.read_json(run.workdir / "result.json")["last_validation_accuracy"]
            if asked:
                search.tell(asked, value)
            else:
                params = {"params": {"factor": factor}, "distributions": distributions}
                search.add_trial(optuna.trial.create_trial(value=value, **params))

    def choose(self):
        """Return the changes of the best trial, none if all failed."""
        done = self.open().get_trials(states=[optuna.trial.TrialState.COMPLETE])
        if not done:
            return {}
        return self.scale_weights(max(done, key=lambda trial: trial.value).params["factor"])


def list_sweeps(layout):
    """Return the sweeps of a study: none without trials, and none of labels only."""
    if not layout.study.trials:
        return []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    arms = [arm for arm in layout.arms.values() if arm.method != "ce"]
    sweeps = [Sweep(layout, pair, arm) for pair in layout.study.pairs for arm in arms]
    for sweep in sweeps:
        sweep.open()  # one after the other, as each may make the tables of the file
    return sweeps


def write_choices(folder, sweeps):
    """Write pair -> arm -> the changes that were chosen to tuned.json."""
    chosen: dict = {}
    for sweep in sweeps:
        chosen.setdefault(sweep.pair, {})[sweep.arm.name] = sweep.choose()
    records.write_json(folder / "tuned.json", chosen)


def read_choices(folder):
    """Return what a folder's tuned.json holds, or nothing.

    Raises:
        FolderError: if it is damaged.
    """
    path = folder / "tuned.json"
    return records.read_json(path) if path.exists() else {}
