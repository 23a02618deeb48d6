_base_ = ["./coco_stuff164k.py", "./semantic_train.py"]

train_dataloader = dict(dataset=dict(type="COCOStuff164kBenchmark"))
