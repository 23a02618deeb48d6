_base_ = ["./voc20.py", "./semantic_train.py"]

# The 1464 finely labelled images and the 9118 of the SBD augmentation.
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="ConcatDataset",
        datasets=[
            dict(type="VOC20Benchmark", split="train", pipeline={{_base_.train_pipeline}}),
            dict(type="VOC20Benchmark", split="aug", pipeline={{_base_.train_pipeline}}),
        ],
    )
)
