"""`python3 -m dynamo.mocker`"""

from dynamo.mocker.main import main

if __name__ == "__main__":
    main()
