"""`python3 -m dynamo.trtllm`"""

from dynamo.trtllm.main import main

if __name__ == "__main__":
    main()
