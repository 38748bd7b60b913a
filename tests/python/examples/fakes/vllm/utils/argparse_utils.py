"""vLLM's parser."""

import argparse


class FlexibleArgumentParser(argparse.ArgumentParser):
    pass
