"""The simulator of the Siracusa cluster: a C core, built on first use, and its Python driver.

`Simulator` loads an ELF file and runs it; docs/simulator.md describes the machine, its timing model and its parameters.
"""

from tilegrad.simulator.machine import FC, Counters, FunctionProfile, HotSpot, Reason, Result, Simulator
from tilegrad.simulator.regions import Access, Region

__all__ = ["FC", "Access", "Counters", "FunctionProfile", "HotSpot", "Reason", "Region", "Result", "Simulator"]
