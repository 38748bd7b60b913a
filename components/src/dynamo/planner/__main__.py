"""`python3 -m dynamo.planner`"""

from dynamo.planner.main import main

if __name__ == "__main__":
    main()
