"""`python3 -m dynamo.sglang`"""

from dynamo.sglang.main import main

if __name__ == "__main__":
    main()
