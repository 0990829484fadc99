"""Where a process's CPU time goes: `python -m bench.sampler REPORT MODULE`.

Every few milliseconds of CPU time the kernel sends SIGPROF, and the stack of the main thread is
noted. Waiting costs no CPU time, so it is not seen; what other threads use is seen under whatever
the main thread does then. cProfile would make each call dearer and so blame small functions.
"""

import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL_SECONDS = 0.005
SHOWN = 45
IMPORTS = "<frozen importlib"
PACKAGES = "site-packages/"


class Sampler:
    """Counts stacks, by function.

    Attributes:
        taken: Samples.
        importing: Of those, while modules were imported.
        inside: By function: samples with it innermost.
        below: By function: samples with it anywhere.
    """

    def __init__(self) -> None:
        self.taken = 0
        self.importing = 0
        self.inside: Counter[str] = Counter()
        self.below: Counter[str] = Counter()

    def start(self) -> None:
        """Sample from now on."""
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)

    def report(self) -> str:
        """Both counts, largest first; imports apart."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        busy = max(1, self.taken - self.importing)
        lines = [f"{self.taken} samples, of which {self.importing} are imports and left out"]
        for title, counted in (("in the function itself", self.inside), ("in all", self.below)):
            lines += ["", title]
            lines += [
                f"{100 * count / busy:6.1f} %  {name}" for name, count in counted.most_common(SHOWN)
            ]
        return "\n".join(lines) + "\n"

    def _sample(self, _signal: int, frame: FrameType | None) -> None:
        names = []
        while frame is not None:
            names.append(_name(frame))
            frame = frame.f_back
        self.taken += 1
        if any(name.startswith(IMPORTS) for name in names):
            self.importing += 1
            return
        self.inside[names[0]] += 1
        self.below.update(set(names))


def _name(frame: FrameType) -> str:
    code = frame.f_code
    path = code.co_filename
    short = path.partition(PACKAGES)[2] or "/".join(Path(path).parts[-2:])
    return f"{path if path.startswith('<') else short}:{code.co_name}"


def main() -> None:
    """Run a module as the main program, then write the report."""
    report, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    sampler = Sampler()
    sampler.start()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        Path(report).write_text(sampler.report())


if __name__ == "__main__":
    main()
