"""Save finished runs as those that ship with the package, each with its model card.

    python benchmarks/ship.py FOLDER [NAME …]    # from FOLDER/shipped-NAME
    python benchmarks/ship.py                    # only draw the pictures of those that ship again
"""
import sys
from pathlib import Path
from cells import EXTRA, definitions
from pcdistill import inpaint, load_run
from pcdistill.chain import SHIPPED
from pcdistill.core import rng
from pcdistill.data import images
from pcdistill.extra.innovations import InnovationsConfig, fit_innovations, fit_network
from pcdistill.extra.masked import MaskedConfig
from pcdistill.evaluate import waterfall_bits
from pcdistill.inpainting import as_png, figure
from pcdistill.runs import save, write_file

narrowed = definitions(EXTRA/'innovations.ipynb').narrowed
COMMIT = '7f9993c'
# name → options of `pcdistill distill --device cpu`, and the terms of its data
RUNS = dict(
    digits=('--data digits', 'The optical digits of scikit-learn (E. Alpaydin and C. Kaynak, UCI), CC BY 4.0.'),
    photos=('--data photos --emission normals', 'Crops of photographs in the public domain or under CC0; '
            'their authors are in assets/photos/ORIGIN.md of the package.'),
    fashion_mnist=('--data fashion_mnist --preset small --emission trees --n-train 6000', 'Fashion-MNIST (Zalando SE), MIT licence.'))

# what completes pictures: name → settings of innovations, of a network, a word about its making
ACROSS = dict(photos=(InnovationsConfig(K=32, mirror=True), None, ''),
              fashion_mnist=(InnovationsConfig(K=32, n_fit=45_000), MaskedConfig(),
                             ' at commit 2b66207 (of its epochs alone, the batch was 64)'))

def add_innovations(run):
    "A model of innovations beside the circuit, from all training images, if it is not there yet."
    file, name = run.folder/'innovations.safetensors', run.recipe.data
    if name not in ACROSS or file.is_file():
        return
    config, network, _ = ACROSS[name]
    x, valid = (images(name, split) for split in ('train', 'valid'))
    model = fit_innovations(x, valid, config, rng(0))
    if network:
        fit_network(model, x, network, rng(0), run.folder/'network.ckpt')
    save(file, *narrowed(model))

def draw(run):
    "Pictures that need no more than what ships: the ledger, and what innovations complete."
    r, name = run.results, run.recipe.data
    fig = waterfall_bits(r['teacher']['bits'], r['ledger'], title=name)
    fig.savefig(run.folder/'ledger.png', dpi=120, bbox_inches='tight')
    if name in ACROSS:
        shown = inpaint(run, run.images('test')[3:83:10], 'left', 3)
        write_file(run.folder/'inpaint.png', as_png(figure(shown)))

def across(name) -> str:
    "What the card says of innovations."
    if name not in ACROSS:
        return ''
    config, network, word = ACROSS[name]
    then = f', then\n`fit_network(model, train, {network}, rng(0))`{word}' if network else ''
    return f"""

What completes pictures here is innovations.safetensors, fitted to all training images by
`fit_innovations(train, valid, {config}, rng(0))`{then}, not the circuit, whose completions of half
a picture are a mosaic. The circuit: `inpaint(run.image, …)`. A factor of the covariance is stored
in half precision, which changes no bits below by more than 0.0002."""

def note(name) -> str:
    "What the card says of this run alone."
    (options, terms), more = RUNS[name], across(name)
    return f"""The command, at commit {COMMIT}, one thread:

```
pcdistill distill {options} --device cpu
```

{terms}{more}"""

def ship(folders:Path, names:list[str]):
    "Runs in `folders`/shipped-<name>; all, or those named."
    for name in names or RUNS:
        run = load_run(folders/f'shipped-{name}', 'cpu')
        add_innovations(run)
        draw(run)
        print(run.save_pretrained(SHIPPED/name, 'apache-2.0', note(name)))

if __name__=='__main__':
    if sys.argv[1:]:
        ship(Path(sys.argv[1]), sys.argv[2:])
    else:
        for name in RUNS:
            draw(load_run(SHIPPED/name, 'cpu'))
