# SPDX-License-Identifier: Apache-2.0
"""The bundles' own small networks and good data, here too."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "bundles_conftest", Path(__file__).parents[1] / "bundles" / "conftest.py"
)
_shared = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _shared
_spec.loader.exec_module(_shared)
tiny, tiny_brains, probes, run_files = _shared.tiny, _shared.tiny_brains, _shared.probes, _shared.run_files


def _write_weights(bundle):
    parser = _shared.ConfigParser()
    parser.read_config(bundle.files("inference"))
    for key, value in _shared.NETWORKS[bundle.name].items():
        parser[key] = value
    if parser["network_def::_target_"] == "common.weights.build":
        parser["network_def::from_scratch"] = True
    _shared.torch.manual_seed(0)
    network, path = parser.get_parsed_content("network_def"), bundle.models / "model.pt"
    path.parent.mkdir()
    if bundle.name == "brasyn_synthesis":
        landmarks = _shared.fit(_shared.training_cases(bundle.data), "t1c")
        _shared.bind(network, landmarks)
        landmarks.save(_shared.landmarks_path(path))
    _shared.torch.save(network.state_dict(), path)


_shared._write_weights = _write_weights
