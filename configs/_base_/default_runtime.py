custom_imports = dict(imports=["mmseg_plugins.register"], allow_failed_imports=False)
default_scope = "mmseg"
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="SegLocalVisualizer", vis_backends=vis_backends, name="visualizer")
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="WholeCheckpointHook", by_epoch=False, interval=8000, max_keep_ckpts=3),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
    # a resumed run repeats the augmentation and dropout of an uninterrupted one
    iteration_seed=dict(type="IterationSeedHook"),
    # models whose class names are part of a published checkpoint take them from there
    published_classes=dict(type="PublishedClassesHook"),
    # a data set with another number of classes than a fixed head is an error before the first image
    class_count=dict(type="ClassCountHook"),
)
# every result is printed with the settings it was measured under
custom_hooks = [dict(type="HarnessHook")]
log_processor = dict(by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
tta_model = dict(type="OpenVocabularyTTAModel")
