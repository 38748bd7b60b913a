"""What `multiprocessing` imports as the main module of a process that an engine has spawned."""

from dynamo.engine.processes import SPAWNED, belong_to_worker

if __name__ == SPAWNED:
    belong_to_worker()
