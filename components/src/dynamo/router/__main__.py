"""`python3 -m dynamo.router`"""

from dynamo.router.main import main

if __name__ == "__main__":
    main()
