"""`python3 -m dynamo.vllm`"""

from dynamo.vllm.main import main

if __name__ == "__main__":
    main()
