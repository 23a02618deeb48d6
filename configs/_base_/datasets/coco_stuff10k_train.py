_base_ = ["./coco_stuff10k.py", "./semantic_train.py"]

train_dataloader = dict(dataset=dict(type="COCOStuff10kBenchmark"))
