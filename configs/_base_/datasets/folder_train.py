_base_ = ["./folder.py", "./semantic_train.py"]

train_dataloader = dict(dataset=dict(_delete_=True, type="FolderDataset", pipeline={{_base_.train_pipeline}}))
