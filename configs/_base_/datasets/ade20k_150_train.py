_base_ = ["./ade20k_150.py", "./semantic_train.py"]

train_dataloader = dict(dataset=dict(type="ADE20K150Benchmark"))
