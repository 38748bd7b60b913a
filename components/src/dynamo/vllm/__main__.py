"""`python3 -m dynamo.vllm`"""

from dynamo.engine import processes

if __name__ == processes.SPAWNED:
    # This is a process that vLLM has started.
    processes.belong_to_worker()

if __name__ == "__main__":
    from dynamo.vllm.main import main

    main()
