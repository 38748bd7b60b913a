"""`python3 -m dynamo.llama_cpp`"""

from dynamo.llama_cpp.main import main

if __name__ == "__main__":
    main()
