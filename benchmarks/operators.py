"""Every operator of torch's test database: `python -m benchmarks.operators`."""
import json, os, sys, time, signal
from dataclasses import asdict
from fnmatch import fnmatchcase
import torch
from benchmarks.opinfo.variants import entries
from benchmarks.opinfo.outcome import judge
if __name__ == "__main__":
    torch.set_num_threads(1)
    only = sys.argv[1]; out = sys.argv[2] if len(sys.argv) > 2 else None
    most = int(sys.argv[3]) if len(sys.argv) > 3 else 6
    f = open(out, "a") if out else None
    skip = set()
    if len(sys.argv) > 4: skip = {json.loads(l)["name"] for l in open(sys.argv[4])}
    E = entries()
    for n in ("abs",): judge(n, E[n], 4, 0)
    for name, op in E.items():
        if name in skip: continue
        if not fnmatchcase(name, only): continue
        t = time.time()
        r, w = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(150)
            o = judge(name, op, most, 0)
            with os.fdopen(w, "w") as g: g.write(json.dumps(asdict(o)))
            os._exit(0)
        os.close(w)
        text = os.fdopen(r).read(); os.waitpid(pid, 0)
        d = json.loads(text) if text else dict(name=name, verdict="error", text="died", tried=[])
        d["seconds"] = time.time() - t
        if f: f.write(json.dumps(d) + "\n"); f.flush()
        print(f"{d['seconds']:.1f} {d['verdict']} {name}: {d['text'][:150]}", flush=True)
        if not out:
            for x in d["tried"]: print("     ", x["verdict"], x["variant"][:100], "|", x["text"][:300])
