"""How tight, how fast: bounds of whole networks beside those of others, computed in one run. Prints tables.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.network [--mlp] [--cnn] [--resnet18] [--local-linf] [--local-l2]
                                                         [--certificates] [--lipsdp] [--per-pair]

Without a table's name, all of them. Every value of ours is proved unless its row says otherwise. Seconds are of
processor time, of all threads together, since machines are shared. Rows that quote a figure say "published": it was
measured on another machine, so values compare, seconds only roughly. Peers are optional, see `network_peers`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping

import torch

from tests.benchmarks import network_global as everywhere
from tests.benchmarks import network_local as around

Table = Callable[[argparse.Namespace], None]
TABLES: Mapping[str, tuple[str, Table]] = {
    "mlp": ("dense networks", lambda asked: everywhere.dense_tables(lipsdp=asked.lipsdp)),
    "cnn": ("trained convolutional networks", lambda asked: everywhere.convolution_tables(per_pair=asked.per_pair)),
    "resnet18": ("a ResNet-18 at 32 x 32", lambda _: everywhere.resnet_tables(torch.get_num_threads())),
    "local-linf": ("Lipschitz constants on linf balls", around.local_linf_table),
    "local-l2": ("Lipschitz constants on l2 balls", around.local_l2_table),
    "certificates": ("certified radii of trained networks", around.certificate_tables),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (words, _) in TABLES.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"only: {words}")
    parser.add_argument("--lipsdp", action="store_true", help="also LipSDP on net A, one to two minutes")
    parser.add_argument("--per-pair", action="store_true", help="also --effort max for pairs of classes, a minute each")
    parser.add_argument("--images", type=int, default=50, help="how many test images to certify (default: 50)")
    parser.add_argument("--no-crown", action="store_true", help="leave out auto_LiRPA's CROWN, half a second an image")
    asked = parser.parse_args()
    chosen = [name for name in TABLES if getattr(asked, name.replace("-", "_"))] or list(TABLES)
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, load {load}, torch {torch.__version__}")
    for name in chosen:
        TABLES[name][1](asked)


if __name__ == "__main__":
    main()
