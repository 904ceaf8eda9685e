"""Acting by exact inference over returns: 20 agents, four worlds, three students, every policy.

    python benchmarks/returns.py   # one core, about six minutes when it is quiet

What is run stands in nbs/neighbours/N5_returns.ipynb: its imports, functions, classes and capital
constants are taken from there, none are copied. The seed makes the agent, its episodes, the start
of EM and the draws. Expected returns are exact. Nothing is chosen by them: bins, shares, numbers of
states and steps are the same for all, and where a setting has several values all are kept.
Results: nbs/neighbours/results/returns.json, after every row; rows that are there are not run
again.
"""
import argparse, json
from pathlib import Path
import torch
from cells import NEIGHBOURS, definitions
from chain import COMMIT, timed
from pcdistill.core import rng
from pcdistill.runs import save_json

def rows_of(n5, name, seed):
    "A row for each student of one agent in one world."
    w, learns, episodes = n5.WORLDS[name]
    agent_oa = n5.half_trained(w, learns, rng(seed))
    data = n5.windows(w, n5.play(w, agent_oa, episodes, rng(100 + seed)))
    start = dict(world=name, seed=seed, commit=COMMIT, steps=int(data.n_x.sum()),
                 windows=len(data.x_xd), agent=float(n5.judge(w, agent_oa[None])))
    share_x = data.n_x/data.n_x.sum()
    for student in 'found', 'given', 'counted':
        pc, seconds = None, 0.
        if student!='counted':
            pc, seconds = timed(n5[student], data, rng(200 + seed))
        ans = n5.ask(pc, data) if pc else n5.counted(data)
        scores = n5.judged(w, n5.policies(ans, data, rng(300 + seed)))
        nats = n5.nats(pc, data) if pc else float(share_x @ share_x.log())
        yield start | dict(student=student, states=pc and pc.n_states, nats=round(nats, 4),
                           seconds=seconds, scores={k: round(v, 4) for k, v in scores.items()})

def main():
    args = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    args.add_argument('--seeds', type=int, default=20)
    args.add_argument('--out', type=Path, default=NEIGHBOURS/'results/returns.json')
    a = args.parse_args()
    torch.set_num_threads(1)
    n5 = definitions(NEIGHBOURS/'N5_returns.ipynb')
    f = json.loads(a.out.read_text(encoding='utf-8')) if a.out.is_file() else dict(rows=[])
    f['optimum'] = {name: round(n5.optimum(w)[0], 4) for name, (w, *_) in n5.WORLDS.items()}
    done = {(r['world'], r['seed']) for r in f['rows']}
    for seed in range(a.seeds):
        for name in n5.WORLDS:
            if (name, seed) not in done:
                new, seconds = timed(lambda: list(rows_of(n5, name, seed)))
                f['rows'] += new
                save_json(a.out, f)
                said = {r['student']: r['scores']['several of 16'] for r in new}
                print(f'{name} {seed}: {seconds} s, agent {new[0]["agent"]:.2f}, {said}', flush=True)

if __name__=='__main__':
    main()
