"""The same search as other tools' users write it: each script is run with a task file.

    python -m benchmarks.peers.ray_flax TASK.json

Each prints one JSON object on its last line; see ``task.answer``.
"""
