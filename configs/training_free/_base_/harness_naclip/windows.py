_base_ = ["../harness_sclip/windows.py"]
