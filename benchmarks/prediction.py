"""Compare ways of running a trained network on a CPU.

    python benchmarks/prediction.py                                                      # both released networks
    python benchmarks/prediction.py --model saved_models/unet_pets.pth --precision bfloat16 --rounds 15
    python benchmarks/prediction.py --only torchscript optimized                        # no compiler needed
    pip install -r requirements-export.txt                                               # for a row with onnxruntime

| contender | what runs |
|---|---|
| eager | Predictor.network with its weights in --precision, as the commands in src/ run it |
| cast per call | the same network with float32 weights, which autocast casts on every call (float32: like eager) |
| other layout | channels last if src/ uses the default layout, and vice versa |
| torchscript | traced, frozen |
| optimized | torchscript after torch.jit.optimize_for_inference, which packs weights for oneDNN |
| compile | torch.compile |
| frozen | torch.compile with options={"freezing": True}: weights are constants, packed once |
| autotuned | frozen, with the search of mode max-autotune-no-cudagraphs; skipped unless --only lists it |
| aoti | torch.export, AOTInductor |
| onnx | the network exported to ONNX, in onnxruntime; float32 only |

Every contender gets the float images that Predictor.logits computes, in the layout of src/, and returns logits. One
whose logits differ too much from eager's is not timed. There is a table for each checkpoint, precision and batch size.
Contenders take turns; a turn is an untimed call, then several timed ones. ready: seconds from the eager network to the
contender's first logits, including compilation. eager / it: the median of the rounds' ratios, and their quartiles.
"""

import copy
import os
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
from turns import in_turns, quartiles, ratios_to, refuse_noise

import shapes
from augment import normalize
from export import read_onnx
from predictor import load_predictor
from runtime import choose_runtime
from utils import Parser, UserError, positive_int, run

RELEASED = [Path(__file__).parents[1] / "saved_models" / f"{name}_pets.pth" for name in ("unet", "resnet34_unet")]
NOISY = 1.2  # upper / lower quartile of a contender's ratios, above which its median means nothing
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}  # largest difference from eager's logits / largest of eager's logits
TURN = 0.3  # approximate seconds of eager per turn

# ---------------------------------------------------------------------------------- contenders
#
# Each takes the predictor and the images of a call, float32 (N, C, H, W), and returns a function of such images.


def eager(predictor, images):
    def call(images):
        with predictor.runtime.autocast():
            return predictor.network(images)

    return call


def cast_per_call(predictor, images):
    return eager(replace(predictor, network=copied(predictor).float()), images)


def copied(predictor):
    return copy.deepcopy(predictor.network)


def taking(predictor, network):
    """Wrap a network of the runtime's dtype as a function of float32 images."""
    return lambda images: network(images.to(predictor.runtime.dtype))


def other_layout(predictor, images):
    last = predictor.runtime.memory_format == torch.channels_last
    layout = torch.contiguous_format if last else torch.channels_last
    network = copied(predictor).to(memory_format=layout)
    return lambda images: network(images.to(predictor.runtime.dtype, memory_format=layout))


def traced(predictor, images):
    example = images.to(predictor.runtime.dtype)
    return torch.jit.freeze(torch.jit.trace(copied(predictor), example, check_trace=False))


def torchscript(predictor, images):
    return taking(predictor, traced(predictor, images))


def optimized(predictor, images):
    return taking(predictor, torch.jit.optimize_for_inference(traced(predictor, images)))


def compiled(predictor, images):
    return taking(predictor, torch.compile(copied(predictor)))


def frozen(predictor, images):
    return taking(predictor, torch.compile(copied(predictor), options={"freezing": True}))


def autotuned(predictor, images):
    options = torch._inductor.list_mode_options("max-autotune-no-cudagraphs")  # torch.compile takes a mode or options
    return taking(predictor, torch.compile(copied(predictor), options={**options, "freezing": True}))


def aoti(predictor, images):
    program = torch.export.export(copied(predictor), (images.to(predictor.runtime.dtype),))
    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(Path(folder) / "model.pt2"))
        return taking(predictor, torch._inductor.aoti_load_package(path))


def onnx(predictor, images):
    if predictor.runtime.precision != "float32":
        raise NotImplementedError("onnxruntime has only float32 convolutions on CPUs")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(copied(predictor), (images,), path, dynamo=True, input_names=["image"], verbose=False)
        session = read_onnx(path)
    if session is None:
        raise ImportError("onnxruntime is not installed; pip install -r requirements-export.txt")
    return session


CONTENDERS = {
    "cast per call": cast_per_call,
    "other layout": other_layout,
    "torchscript": torchscript,
    "optimized": optimized,
    "compile": compiled,
    "frozen": frozen,
    "autotuned": autotuned,
    "aoti": aoti,
    "onnx": onnx,
}
SLOW = ("autotuned",)

# ------------------------------------------------------------------------------------ measuring


def images_of(predictor, number):
    """Return synthetic images as Predictor.logits passes them to the network, float32 (N, C, S, S)."""
    images = [shapes.draw(np.random.default_rng(index), predictor.size, predictor.size)[0] for index in range(number)]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[:, : len(predictor.mean)]
    return predictor.runtime.layout(normalize(pixels, predictor.mean, predictor.std))


def make(names, predictor, images):
    """Return the contenders that agree with eager, their seconds and differences, and why others are left out."""
    calls, ready, differences, left_out = {}, {}, {}, {}
    expected = eager(predictor, images)(images).float()
    torch.compiler.reset()  # else torch.compile falls back to eager after some recompilations
    for name in ("eager", *names):
        began = time.perf_counter()
        try:
            call = (eager if name == "eager" else CONTENDERS[name])(predictor, images)
            logits = call(images).float()
        except (ImportError, NotImplementedError, RuntimeError, UserError) as error:  # by packages and compilers
            left_out[name] = " ".join(str(error).split())[:200]
            continue
        difference = (logits - expected).abs().max().item()
        if not difference <= TOLERANCE[predictor.runtime.precision] * expected.abs().max().item():
            left_out[name] = f"its logits differ from eager's by {difference:.2g}"
            continue
        calls[name], ready[name], differences[name] = call, time.perf_counter() - began, difference
    return calls, ready, differences, left_out


def seconds_of(call, images, times):
    """Return the mean seconds of several calls, after one that is not timed."""
    call(images)
    start = time.perf_counter()
    for _ in range(times):
        call(images)
    return (time.perf_counter() - start) / times


@torch.inference_mode()
def table(predictor, number, args):
    """Print the table of batches of `number` images. Returns the quartiles of each contender's ratios."""
    images = images_of(predictor, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations, and warnings of exporters
        calls, ready, differences, left_out = make(args.only, predictor, images)
        times = max(1, round(TURN / seconds_of(calls["eager"], images, 1)))
        seconds = in_turns({name: turn_of(call, images, times) for name, call in calls.items()}, args.rounds)
    ratios = ratios_to("eager", seconds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    speed = "ms" if number == 1 else "images/s"
    print(
        f"{f'batches of {number}':16}{speed:>12}{'eager / it':>12}{'quartiles':>16}{'ready, s':>10}{'difference':>12}"
    )
    for name, median in medians.items():
        value = 1e3 * median if number == 1 else number / median
        spread = "{:.2f} to {:.2f}".format(*quartiles(ratios[name]))
        told = f"{statistics.median(ratios[name]):12.2f}{spread:>16}{ready[name]:10.1f}{differences[name]:12.1e}"
        print(f"{name:16}{value:12.1f}{told}", flush=True)
    for name, reason in left_out.items():
        print(f"{name:16}not run: {reason}", flush=True)
    return {name: quartiles(values) for name, values in ratios.items()}


def turn_of(call, images, times):
    return lambda: seconds_of(call, images, times)


def processor():
    """Return the name of the processor, if Linux reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")


def main():
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--model", nargs="+", type=Path, default=RELEASED, help="checkpoints; default: the two released ones")
    add("--precision", nargs="+", choices=TOLERANCE, help="precisions; default: float32, and what auto chooses")
    add("--only", nargs="+", choices=CONTENDERS, help="contenders besides eager; default: all but autotuned")
    add("--batch_size", "-b", nargs="+", type=positive_int, default=[1, 16], help="batch sizes; default 1 16")
    add("--rounds", type=positive_int, default=9, help="number of rounds; default %(default)s")
    add("--threads", type=positive_int, help="number of threads; default: one per core")
    args = parser.parse_args()
    args.only = args.only or [name for name in CONTENDERS if name not in SLOW]
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # AOTInductor reads it
        torch.set_num_threads(args.threads)
    args.precision = args.precision or sorted({"float32", choose_runtime("cpu").precision}, reverse=True)
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {args.rounds} rounds")
    spreads = {}
    for path in args.model:
        for precision in args.precision:
            predictor = load_predictor(path, choose_runtime("cpu", precision))
            layout = str(predictor.runtime.memory_format).removeprefix("torch.").replace("_", " ")
            print(f"\n{path.stem}, {predictor.size}x{predictor.size}, {precision}, {layout}")
            for number in args.batch_size:
                for name, spread in table(predictor, number, args).items():
                    spreads[f"{path.stem} {precision} {number} {name}"] = spread
    refuse_noise(spreads, NOISY)
    return 0


if __name__ == "__main__":
    run(main)
