"""What the peers share: how steps are timed and told. bench/gpu.sh reads these lines."""
import resource
import statistics
import time

import torch


def on_gpu(loss_of, parameters, optimizer, dtype, warmup, steps):
    """Milliseconds of every step: autocast to dtype, clipping to norm 1, scaling in fp16."""
    parameters = list(parameters)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    for i in range(warmup + steps):
        if i >= warmup:
            marks[i - warmup].record()
        torch.compiler.cudagraph_mark_step_begin()  # what the last step computed may go
        with torch.autocast("cuda", dtype=dtype):
            loss = loss_of()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
    marks[steps].record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in zip(marks, marks[1:])]


def on_cpu(loss_of, parameters, optimizer, warmup, steps):
    """The same in fp32."""
    parameters, ms = list(parameters), []
    for _ in range(warmup + steps):
        start = time.perf_counter()
        loss_of().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ms.append(1e3 * (time.perf_counter() - start))
    return ms[warmup:]


def tell(name, ms, count, unit, memory):
    """count: of units, such as images, in a step."""
    median = statistics.median(ms)
    print(f"{name:41s} {median:8.2f} ms per step (fastest {min(ms):.2f}, slowest {max(ms):.2f})"
          f"  {1e3 * count / median:.1f} {unit}/s  {memory}", flush=True)


def tell_cpu(name, ms, count, unit):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    tell(name, ms, count, unit, f"peak {peak:.2f} GiB resident")


def tell_modes(title, modes, count, unit, times):
    """modes: name, and what times() is given to make a model of that mode and time its steps."""
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, {title}")
    print("# modes: " + "; ".join(mode[0] for mode in modes), flush=True)
    for name, *how in modes:
        torch.cuda.reset_peak_memory_stats()
        start = time.time()
        try:
            ms = times(*how)
        except Exception as error:  # one mode that fails must not hide the others
            print(f"{name:41s} failed: {str(error).splitlines()[0]}", flush=True)
            continue
        finally:
            torch._dynamo.reset()
            torch.cuda.empty_cache()
        tell(name, ms, count, unit, f"peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"
             f"  {time.time() - start:.0f} s in all")
