"""`python3 -m dynamo.serve`"""

import sys

from dynamo.serve.main import main

if __name__ == "__main__":
    sys.exit(main())
