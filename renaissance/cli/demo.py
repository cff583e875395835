"""`python run.py demo with key=value`: a generated world, two models that learn it, and what they learned."""

from renaissance.core.checks import flag, integer, path, task_list
from renaissance.demo.run import demo


# fmt: off
class Demo:
    """How much of it"""

    root: path("a folder") = "demo"  # folder of everything that the demo writes
    seed: integer(0, 2**63 - 1) = 0  # of the world and of both models
    steps: integer(10) = 1450  # optimizer steps of each model; each finetuning run takes a fixed share of them
    pictures: integer(100) = 6000  # images of the train split
    demo_tasks: task_list = None  # finetune afterwards on: all, or some of vqa,nlvr2,snli,ref,irtr,pairs,classes
    data_only: flag = False  # True: write the data, those of demo_tasks too, for runs and studies of your own, and stop
# fmt: on

main = demo
