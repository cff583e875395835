"""Every setting with its default, and every preset.

This is the file to edit; it holds no logic.

    python run.py with <task> [<parts> ...] key=value          one run
    python run.py print_config with ...                        what a command resolves to
    python run.py print_named_configs                          every preset below, with what it sets

`None` is filled from the checkpoint, the pretrained model or a fallback: given > checkpoint > model > fallback. The comment
behind a default is that key's documentation: `print_config` prints it, CONFIGURING_MODELS.md is generated from it.

    keep_last: integer(1).changeable = 2  # newest checkpoints that stay beside best.ckpt

In between stands what the setting may be, here a whole number of at least 1, and marks such as `.changeable`: a resumed run may
have another value. `.or_fallback(50)` is the fallback. core/checks.py explains them. A setting whose default is None may be None.
"""

from renaissance.core.checks import *  # what a setting may be


# fmt: off
class Run:
    """The run"""

    exp_name: run_name.command_only = "renaissance"  # name of the run; its folder is <log_dir>/<exp_name>/version_N
    seed: integer(0, 2**63 - 1).evaluation = 0  # every random choice is a function of (seed, epoch, sample)
    log_dir: path("a folder").command_only = "result"  # folder that holds the run folders
    load_path: checkpoint.command_only = None  # checkpoint to start from: its towers, sizes and tokenizer are the defaults of this run
    resume_from: checkpoint.command_only = None  # checkpoint of a run to continue where it stopped; auto = the newest run of this command
    test_only: flag.command_only = False  # True: evaluate load_path on every split that is there, and stop
    final_test: flag.changeable = True  # evaluate best.ckpt on every labelled split in the end; False: the last validation stands
    fast_dev_run: flag_or_steps.command_only = False  # True or a number: that many steps of training and of evaluation, nothing kept
    tags: tag_list.changeable = None  # names by which runs are found again, such as [baseline,paper]: in settings.json, loggers and compare
    logger: logger_names.changeable = ["tensorboard"]  # where a run is logged besides metrics.csv: one of tensorboard, wandb, mlflow, csv, or a list of them
    log_every_n_steps: integer(1).changeable = 50  # steps between two lines of metrics.csv
    max_bad_steps: integer(1).changeable = 10  # consecutive skipped steps (loss or gradient not finite) after which the run ends
    save_every_steps: integer(1).changeable = None  # steps between two saves, beside those at validations; None = by the clock
    save_every_minutes: number(0.01).changeable = None  # minutes between two; None = 10, or more where saving would take over 2 % of the time
    keep_last: integer(1).changeable = 2  # newest checkpoints to keep besides best.ckpt, in case the last one is damaged
    max_time: duration.changeable = None  # hours:minutes after which the run saves and ends with status 75, for a queue with a time limit
    trust_remote_code: flag.command_only = False  # True: runs code that an encoder brings, given as name@<commit>; False: never
    plugins: plugin_names.command_only = None  # modules and files that add tasks, data sets, presets and more, such as ["my_lab.gqa", "path/to/file.py"]
    allow_download: flag.command_only = True  # False: models come from local folders and the Hub's cache only


class Data:
    """Data"""

    datasets: dataset_names = ["coco", "vg"]  # data sets to train on, any mix; the name of any <name>.arrow with image and caption; or a folder, or owner/name of the Hub, that the library datasets has saved
    first_datasets: dataset_names = None  # data sets of captions that the first steps of training show in the place of these, such as easy ones; None = the same
    first_steps: steps_or_share("all steps", 1) = 0.1  # how many first steps: a whole number, or a share of all steps (below 1)
    ref_dataset: choice("refcoco", "refcoco+", "refcocog", "refcocog_google") = None  # data set of referring expressions: refcoco, refcoco+, refcocog or refcocog_google
    image_column: text("the name of a column") = None  # what your own captions, or those of the library datasets, call the column of images; None = image
    caption_column: text("the name of a column") = None  # the same for the captions, a text or a list of texts; None = caption
    data_root: path("the folder of the arrow files").changeable = "data/arrow"  # folder of the arrow files
    allow_missing_shards: flag.changeable = False  # True: train without the files of gcc and sbu that are missing between others
    batch_size: pairs(1) = 256  # pairs of one optimizer step, over all processes
    per_gpu_batchsize: pairs(0).changeable = 0  # pairs of one micro-batch on one process; 0 = batch_size / processes
    eval_batch_size: pairs(1).changeable.evaluation = None  # pairs of one evaluation batch; None = per_gpu_batchsize
    eval_limit: integer(1) = None  # evaluates so many first samples (retrieval: images) of each split, and marks it; None = all
    train_transform_keys: transform = ["imagenet"]  # a list of one of {TRANSFORMS}, each also with _randaug
    val_transform_keys: transform.evaluation = ["imagenet"]  # the same, without _randaug
    patch_drop: number(0, 0.999) = 0  # share of each image's patches that training leaves out before the blocks, anew each epoch; 0 = none
    patch_drop_until: number(0, 1, above=True) = 0.9  # share of all steps after which training, too, sees all patches
    cache_frozen: flag.changeable = False  # True: tokens of a frozen image encoder are computed once, kept on disk, and read instead of images
    cache_precision: bits.changeable = 32  # bits of each of these numbers: 32, or 16 for half the disk
    cache_dir: path("a folder").command_only = None  # folder that keeps them, or the features of linear probe and k-NN; None = tokens, or features, in data_root
    num_workers: processes(0).changeable = None  # loader processes of each training process; None = its cores less one, 8 at most


class Model:
    """Model"""

    model_type: choice("one-tower", "two-tower") = None  # one-tower or two-tower; follows from encoder, image_encoder, text_encoder
    pooler_type: choice("single", "double") = None  # single: the text's first token; double: the first token of text and of image
    tokenizer: model.or_fallback("google-bert/bert-base-uncased") = None  # Hub id or folder; None = the text encoder's own
    vocab_size: integer(1, MOST_PIECES) = None  # pieces of the vocabulary; must agree with the tokenizer
    max_text_len: integer(3, MOST_TOKENS).adaptable.or_fallback(50) = None  # tokens a text is cut at, [CLS] and [SEP] included
    image_size: pixels(8).adaptable.or_fallback(224) = None  # side of the square that the transform crops, pixels; None = the vision encoder's
    original_image_size: pixels(8) = None  # side that the vision encoder was pretrained at; must agree with the model
    patch_size: pixels(1) = None  # side of a patch, pixels; must agree with the vision encoder
    initializer_range: number(0, above=True) = None  # standard deviation of random weights; None = 1/sqrt(fan-in)


class Encoder(Model):
    """One-tower: the blocks of one encoder over word pieces and patches"""

    encoder: model = None  # Hub id or folder of a text or a vision model; selects one-tower
    random_init_encoder: flag = False  # True: the encoder's sizes, random weights
    freeze_encoder: flag = False  # keep the pretrained blocks and embeddings fixed
    encoder_manual_configuration: flag = False  # True: sizes below instead of the encoder's, random weights
    hidden_size: width = None  # width
    num_heads: heads = None  # attention heads; must divide the width
    num_layers: layers = None  # transformer blocks
    mlp_ratio: number(0, 1000, above=True) = None  # width of the feed-forward layer / width
    drop_rate: number(0, 0.999).adaptable = None  # dropout probability
    embedding_size: width = None  # width of the word embeddings, where the family has one (ELECTRA, ALBERT)


class ImageEncoder(Model):
    """Two-tower: image encoder"""

    image_encoder: model.or_fallback("facebook/deit-tiny-patch16-224") = None  # Hub id or folder of a vision model
    random_init_vision_encoder: flag = False  # True: the encoder's sizes, random weights
    freeze_image_encoder: flag = False  # keep the image encoder fixed, without dropout
    image_encoder_manual_configuration: flag = False  # True: sizes below instead of the encoder's, random weights
    image_encoder_hidden_size: width = None  # width
    image_encoder_num_heads: heads = None  # attention heads
    image_encoder_num_layers: layers = None  # transformer blocks
    image_encoder_mlp_ratio: number(0, 1000, above=True) = None  # width of the feed-forward layer / width
    image_encoder_drop_rate: number(0, 0.999).adaptable = None  # dropout probability
    image_encoder_embedding_size: width = None  # width of the patch embeddings, where the family has one


class TextEncoder(Model):
    """Two-tower: text encoder"""

    text_encoder: model.or_fallback("google/electra-small-discriminator") = None  # Hub id or folder of a text model
    random_init_text_encoder: flag = False  # True: the encoder's sizes, random weights
    freeze_text_encoder: flag = False  # keep the text encoder fixed, without dropout
    text_encoder_manual_configuration: flag = False  # True: sizes below instead of the encoder's, random weights
    text_encoder_hidden_size: width = None  # width
    text_encoder_num_heads: heads = None  # attention heads
    text_encoder_num_layers: layers = None  # transformer blocks
    text_encoder_mlp_ratio: number(0, 1000, above=True) = None  # width of the feed-forward layer / width
    text_encoder_drop_rate: number(0, 0.999).adaptable = None  # dropout probability
    text_encoder_embedding_size: width = None  # width of the word embeddings, where the family has one


class Fusion(Model):
    """Two-tower: fusion"""

    fusion: fusion_kind.or_fallback("shared") = None  # one of {FUSIONS}: shared is one cross-attention for both directions, separate one for each, merged one stack over both
    cross_layer_hidden_size: width.or_fallback(256) = None  # width
    num_cross_layers: layers.or_fallback(6) = None  # layers
    num_cross_layer_heads: heads = None  # attention heads; fallback width / 64
    cross_layer_mlp_ratio: number(0, 1000, above=True).or_fallback(4) = None  # width of the feed-forward layer / width
    cross_layer_drop_rate: number(0, 0.999).adaptable.or_fallback(0.1) = None  # dropout probability
    freeze_cross_modal_layers: flag = False  # keep the fusion layers fixed


class Objectives:
    """Objectives"""

    loss_names: loss_weights = no_losses  # weight of each objective and task; 0 = off
    mlm_prob: number(0, 1, above=True).evaluation = 0.15  # share of the words (or pieces) that MLM masks
    whole_word_masking: flag.evaluation = True  # mask all pieces of a word together
    mlm_stop_words: words.evaluation = None  # words that MLM leaves alone, such as ["a", "of", "the"]; None = it may mask any word
    draw_false_image: integer(0, 1).evaluation = 0  # 0: ITM takes false images from the sample's group; 1: draws them from the data set
    negative_group: pairs(1).evaluation = None  # consecutive samples among which false images are exchanged; None = per_gpu_batchsize
    draw_false_text: pairs(0).evaluation = 0  # retrieval: false texts beside each true one
    get_recall_metric: flag = False  # retrieval: True ranks the whole split at each validation and selects by recall
    rerank_top_k: integer(0) = None  # retrieval: best candidates of ITC that go through the fusion; 0 = ITC alone; None = all go
    eccv_caption: flag.command_only = False  # retrieval on coco: True scores the test split also by several right answers a query, of ECCV Caption and CxC
    vqav2_label_size: integer(2, MOST_WIDTH) = None  # answers of the VQAv2 vocabulary; None = as the files have it (3,129 officially)
    text_only: flag.evaluation = True  # GLUE: True reads the text encoder alone; False goes through the fusion without an image
    image_only: flag.evaluation = True  # classes of images: the same for the image encoder
    probe_score: choice("itm", "itc") = None  # probes and classes without training: what scores an image with a text, the head itm or itc; None = itm where it is trained, else itc
    class_names: path("a JSON file") = None  # classes without training: file of the classes' names in their order, a list or {data set: list}; None = as the data names them
    templates: path("a JSON file") = None  # classes without training: file of texts with {c} in the place of a name, a list or {data set: list}; None = "a photo of a {c}."
    frozen_features: choice("image", "text", "fused") = None  # linear probe and k-NN: which vectors they learn from; None = image for classes of images, else fused
    shots_per_class: integer(1) = None  # linear probe and k-NN: training examples of each class, drawn by seed; None = all
    shot_draws: integer(1) = 1  # linear probe and k-NN: how often shots_per_class are drawn; accuracy is the mean over draws
    knn_neighbours: integer(1) = 20  # k-NN: nearest training examples, by cosine, that vote
    blind: flag.evaluation = False  # True: every image is replaced by the mean colour, for a text-only baseline
    blind_run: path("a run folder").changeable = None  # run folder of a blind run of the same task, whose score is printed beside this one's


class Optim:
    """Optimization"""

    optim_type: choice("adamw", "adam", "sgd") = "adamw"  # adamw, adam or sgd
    learning_rate: number(0, above=True) = 1e-4  # peak, of towers; fusion and heads multiply it
    lr_mult_cross_modal: number(0) = 5  # fusion and projections: x learning_rate
    lr_mult_head: number(0) = 5  # heads: x learning_rate
    lr_mult_random: number(0) = 1  # towers that start from random weights: x learning_rate
    weight_decay: number(0) = 0.01  # of matrices; biases and norms have none
    decay_power: decay = 1  # exponent of the polynomial decay, or "cosine"
    warmup_steps: steps_or_share("all steps", 0) = 0.1  # steps (a whole number) or share of all steps (below 1)
    end_lr: number(0) = 0  # learning rate at the last step, before the multipliers
    max_steps: integer(1).changeable = None  # optimizer steps; the first reached of max_steps and max_epoch ends the run
    max_epoch: number(0, 1e9, above=True).changeable = None  # passes over the data
    val_check_interval: steps_or_share("an epoch", 1, closed=True) = 1.0  # steps between validations (a whole number) or share of an epoch (1.0 = each epoch)
    early_stopping: integer(0).changeable = 0  # validations in a row without a gain, as best.ckpt is selected, after which the run ends; 0 = never
    gradient_clip_val: number(0, above=True) = None  # largest norm of the gradient; None = no clipping


class Machine:
    """Machine"""

    num_gpus: processes(1).changeable.or_fallback(1) = None  # processes on each node, one a GPU; without a GPU that many CPU processes
    num_nodes: integer(1, 1 << 16).changeable = 1  # machines
    accelerator: choice("auto", "gpu", "cpu").changeable = "auto"  # auto, gpu (an error without one) or cpu
    precision: precision_name = 32  # 32, 16-mixed, bf16-mixed or 64
    gradient_checkpointing: flag.changeable = False  # True: layers are computed again in the backward pass: less memory, more time
    compile: flag.changeable = False  # True: torch.compile of towers and fusion in training; a minute or more at the start
    decode_on_gpu: flag.changeable = False  # True: the GPU decodes, resizes and crops the JPEG files of training; loader processes only read them
    strategy: choice("ddp", "ddp_bf16", "zero1").changeable = "ddp"  # of many processes: ddp; ddp_bf16 sends gradients in 16 bits; zero1 shares out optimizer state
    float32_matmul_precision: choice("highest", "high", "medium") = "highest"  # highest, high or medium: TF32 and bf16 matrix products on GPUs
# fmt: on


# Tasks: what is trained on what; what loss_names leaves out is off. Finetunings are as those of ViLT: new heads learn faster.
FINETUNING = {"max_epoch": 10, "lr_mult_head": 10}
VQA = {**FINETUNING, "datasets": ["vqa"], "batch_size": 512, "learning_rate": 5e-6, "lr_mult_head": 50}
NLVR2 = {**FINETUNING, "datasets": ["nlvr2"]}
SNLI = {**FINETUNING, "datasets": ["snli"], "batch_size": 64, "learning_rate": 5e-5}
REF = {
    "ref_dataset": "refcoco", "max_epoch": 10, "batch_size": 64, "learning_rate": 7.5e-4, "lr_mult_head": 1, "lr_mult_cross_modal": 1
}  # fmt: skip
IRTR = {**FINETUNING, "draw_false_text": 15, "loss_names": {"irtr": 1}}
GLUE = {
    "max_epoch": 3, "batch_size": 32, "learning_rate": 2e-5, "lr_mult_head": 1, "max_text_len": 128,
    "loss_names": {"glue": 1},
}  # fmt: skip
PROBE = {"loss_names": {"probe": 1}, "test_only": True, "eval_batch_size": 32}
IMAGES = {**FINETUNING, "batch_size": 128, "learning_rate": 5e-5, "loss_names": {"images": 1}}
ZERO_SHOT = {"test_only": True, "loss_names": {"zeroshot_images": 1}}
FROZEN = {"test_only": True, "datasets": ["cifar10"]}
TASKS = {
    "task_mlm_itm": {"exp_name": "mlm_itm", "loss_names": {"mlm": 1, "itm": 1}},  # Masked language modelling and image-text matching, together
    "task_mlm": {"exp_name": "mlm", "loss_names": {"mlm": 1}},  # Masked language modelling alone
    "task_itm": {"exp_name": "itm", "loss_names": {"itm": 1}},  # Image-text matching alone
    # Both, and the contrastive objective that rerank_top_k takes its candidates from.
    "task_mlm_itm_itc": {"exp_name": "mlm_itm_itc", "loss_names": {"mlm": 1, "itm": 1, "itc": 1}},
    "task_finetune_vqa": {**VQA, "exp_name": "finetune_vqa", "loss_names": {"vqa": 1}},  # Questions about images (VQAv2)
    "task_finetune_nlvr2": {**NLVR2, "exp_name": "finetune_nlvr2", "loss_names": {"nlvr2": 1}},  # Is the sentence true of the two images? (NLVR2)
    "task_finetune_snli": {**SNLI, "exp_name": "finetune_snli", "loss_names": {"snli": 1}},  # Does the image entail the sentence? (SNLI-VE)
    "task_finetune_vsr": {**SNLI, "exp_name": "finetune_vsr", "datasets": ["vsr"], "loss_names": {"vsr": 1}},  # True of places? (VSR)
    "task_finetune_ref": {**REF, "exp_name": "finetune_ref", "loss_names": {"ref": 1}},  # Which box is meant? (RefCOCO, by ref_dataset)
    # Which image belongs to the text, which text to the image? (retrieval)
    "task_finetune_irtr_coco": {**IRTR, "exp_name": "finetune_irtr_coco", "datasets": ["coco"]},
    "task_finetune_irtr_f30k": {**IRTR, "exp_name": "finetune_irtr_f30k", "datasets": ["f30k"]},
    # Sentences and pairs of them (GLUE).
    "task_finetune_cola": {**GLUE, "exp_name": "finetune_cola", "datasets": ["cola"]},
    "task_finetune_sst2": {**GLUE, "exp_name": "finetune_sst2", "datasets": ["sst2"]},
    "task_finetune_mrpc": {**GLUE, "exp_name": "finetune_mrpc", "datasets": ["mrpc"]},
    "task_finetune_qqp": {**GLUE, "exp_name": "finetune_qqp", "datasets": ["qqp"]},
    "task_finetune_stsb": {**GLUE, "exp_name": "finetune_stsb", "datasets": ["stsb"]},
    "task_finetune_mnli": {**GLUE, "exp_name": "finetune_mnli", "datasets": ["mnli"]},
    "task_finetune_qnli": {**GLUE, "exp_name": "finetune_qnli", "datasets": ["qnli"]},
    "task_finetune_rte": {**GLUE, "exp_name": "finetune_rte", "datasets": ["rte"]},
    "task_finetune_wnli": {**GLUE, "exp_name": "finetune_wnli", "datasets": ["wnli"]},
    # What a checkpoint knows without finetuning: probes, each alone, and all whose files are there.
    "task_probe_winoground": {**PROBE, "exp_name": "probe_winoground", "datasets": ["winoground"]},
    "task_probe_sugarcrepe": {**PROBE, "exp_name": "probe_sugarcrepe", "datasets": ["sugarcrepe"]},
    "task_probe_sugarcrepe_pp": {**PROBE, "exp_name": "probe_sugarcrepe_pp", "datasets": ["sugarcrepe_pp"]},
    "task_probe_valse": {**PROBE, "exp_name": "probe_valse", "datasets": ["valse"]},
    "task_probe_aro_relation": {**PROBE, "exp_name": "probe_aro_relation", "datasets": ["aro_relation"]},
    "task_probe_aro_attribution": {**PROBE, "exp_name": "probe_aro_attribution", "datasets": ["aro_attribution"]},
    "task_probe_aro_order": {**PROBE, "exp_name": "probe_aro_order", "datasets": ["aro_order_coco", "aro_order_flickr"]},
    "task_probe_whatsup_a": {**PROBE, "exp_name": "probe_whatsup_a", "datasets": ["whatsup_a"]},
    "task_probe_whatsup_b": {**PROBE, "exp_name": "probe_whatsup_b", "datasets": ["whatsup_b"]},
    "task_probe_whatsup_coco": {**PROBE, "exp_name": "probe_whatsup_coco", "datasets": ["whatsup_coco_one", "whatsup_coco_two"]},
    "task_probe_whatsup_vg": {**PROBE, "exp_name": "probe_whatsup_vg", "datasets": ["whatsup_vg_one", "whatsup_vg_two"]},
    "task_probe_mmvp": {**PROBE, "exp_name": "probe_mmvp", "datasets": ["mmvp"]},
    "task_probe_vsr": {**PROBE, "exp_name": "probe_vsr", "datasets": ["vsr", "vsr_zeroshot"]},
    "task_probes": {**PROBE, "exp_name": "probes", "datasets": [
        "winoground", "sugarcrepe", "sugarcrepe_pp", "valse", "aro_relation", "aro_attribution", "aro_order_coco",
        "aro_order_flickr", "whatsup_a", "whatsup_b", "whatsup_coco_one", "whatsup_coco_two", "whatsup_vg_one", "whatsup_vg_two",
        "mmvp", "vsr", "vsr_zeroshot",
    ]},
    # Classes of images: CIFAR-10, or any folder of class folders by the name it was prepared under.
    "task_finetune_cifar10": {**IMAGES, "exp_name": "finetune_cifar10", "datasets": ["cifar10"]},
    "task_finetune_images": {**IMAGES, "exp_name": "finetune_images", "datasets": ["images"]},
    # The same classes without training, by the texts that name them.
    "task_zeroshot_cifar10": {**ZERO_SHOT, "exp_name": "zeroshot_cifar10", "datasets": ["cifar10"]},
    "task_zeroshot_images": {**ZERO_SHOT, "exp_name": "zeroshot_images", "datasets": ["images"]},
    # ... and by classifiers of frozen features; any images with classes, SNLI-VE or NLVR2 by datasets=.
    "task_linear_probe": {**FROZEN, "exp_name": "linear_probe", "loss_names": {"linear_probe": 1}},
    "task_knn": {**FROZEN, "exp_name": "knn", "loss_names": {"knn": 1}},
}  # fmt: skip

# Parts: a handful of settings that go together; any number may be named, the later one wins.
PARTS = {
    # Towers
    "deit_tiny": {"image_encoder": "facebook/deit-tiny-patch16-224"},
    "vit_base": {"image_encoder": "google/vit-base-patch16-224"},
    "clip_vit_base": {"image_encoder": "openai/clip-vit-base-patch16", "train_transform_keys": ["clip"]},
    "electra_small": {"text_encoder": "google/electra-small-discriminator"},
    "electra_base": {"text_encoder": "google/electra-base-discriminator"},
    "bert_base": {"text_encoder": "google-bert/bert-base-uncased"},
    "roberta_base": {"text_encoder": "FacebookAI/roberta-base"},
    # One tower
    "one_tower_dino": {"encoder": "facebook/dino-vits16"},
    "one_tower_vit": {"encoder": "google/vit-base-patch16-224"},
    "one_tower_electra": {"encoder": "google/electra-base-discriminator"},
    "one_tower_random": {"encoder": "google/electra-base-discriminator", "random_init_encoder": True},
    # Fusion sizes
    "fusion_6x256": {"cross_layer_hidden_size": 256, "num_cross_layers": 6},
    "fusion_10x768": {"cross_layer_hidden_size": 768, "num_cross_layers": 10},
    # Freezing
    "freeze_image": {"freeze_image_encoder": True},
    "freeze_text": {"freeze_text_encoder": True},
    # Augmentation
    "randaug": {"train_transform_keys": ["imagenet_randaug"]},
    # Patch dropping
    "half_patches": {"patch_drop": 0.5},
    # Pretraining data
    "data_coco": {"datasets": ["coco"]},
    "data_4m": {"datasets": ["coco", "vg", "gcc", "sbu"]},
    # Environments
    "laptop": {"num_gpus": 1, "batch_size": 32, "per_gpu_batchsize": 16},
    "gpus_8": {"num_gpus": 8, "precision": "16-mixed", "float32_matmul_precision": "high"},
    # The demo's two models, small enough to learn its world in minutes on one core. Folders are written by the demo.
    "demo_run": {
        "data_root": "demo/arrow", "log_dir": "demo/runs", "tokenizer": "demo/tokenizer", "datasets": ["coco"],
        "first_datasets": ["one_object"],  # words leave chance sooner where they can mean one thing only
        "batch_size": 32, "learning_rate": 1.5e-3, "lr_mult_head": 1, "lr_mult_cross_modal": 1, "warmup_steps": 0.05,
        "image_size": 48, "patch_size": 16, "max_text_len": 32, "num_workers": 0,
        # Half of the words that an image tells; 15 % of all would be one of a caption, and often "a" or "the".
        "mlm_prob": 0.5, "mlm_stop_words": ["a", "and", "in", "is", "of", "scene", "shows", "the", "there", "with"],
    },
    "demo_two": {
        "image_encoder": "demo/image_encoder", "image_encoder_manual_configuration": True, "image_encoder_hidden_size": 64,
        "image_encoder_num_heads": 4, "image_encoder_num_layers": 2, "image_encoder_mlp_ratio": 2, "image_encoder_drop_rate": 0,
        "text_encoder": "demo/text_encoder", "text_encoder_manual_configuration": True, "text_encoder_hidden_size": 64,
        "text_encoder_num_heads": 4, "text_encoder_num_layers": 2, "text_encoder_mlp_ratio": 2, "text_encoder_drop_rate": 0,
        "cross_layer_hidden_size": 64, "num_cross_layers": 2, "num_cross_layer_heads": 4, "cross_layer_mlp_ratio": 2,
        "cross_layer_drop_rate": 0,
    },
    "demo_finetuning": {
        "batch_size": 32, "eval_batch_size": 100, "learning_rate": 1e-3, "lr_mult_head": 1, "lr_mult_cross_modal": 1,
        "max_text_len": 32, "num_workers": 0, "accelerator": "cpu", "log_every_n_steps": 10,
    },
    "demo_one": {
        "pooler_type": "double",
        "encoder": "demo/image_encoder", "encoder_manual_configuration": True,
        "hidden_size": 64, "num_heads": 4, "num_layers": 6, "mlp_ratio": 2, "drop_rate": 0,
    },
}  # fmt: skip

# Recipes: whole experiments, by the names of what they join.
RECIPES = {
    # The experiments of the Renaissance paper: DeiT-tiny + ELECTRA-small with no, one or both towers frozen ...
    "paper_small": "task_mlm_itm deit_tiny electra_small fusion_6x256",
    "paper_small_frozen_image": "paper_small freeze_image",
    "paper_small_frozen_text": "paper_small freeze_text",
    "paper_small_frozen_both": "paper_small freeze_image freeze_text",
    # ... ViT-base + ELECTRA-base, both frozen ...
    "paper_base_frozen_both": "task_mlm_itm vit_base electra_base fusion_10x768 freeze_image freeze_text",
    # ... and one tower, from a vision encoder, from a text encoder, from random weights.
    "paper_one_tower_vision": "task_mlm_itm one_tower_vit",
    "paper_one_tower_text": "task_mlm_itm one_tower_electra",
    "paper_one_tower_random": "task_mlm_itm one_tower_random",
    # The demo's models.
    "demo_two_tower": "task_mlm_itm demo_run demo_two",
    "demo_one_tower": "task_mlm_itm demo_run demo_one",
}
