"The package's metadata is in settings.ini, one place; here it is handed to setuptools."
from configparser import ConfigParser
from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here/'settings.ini', encoding='utf-8')
s = ini['DEFAULT']
readme = here/'README.md'
extra = {k.removesuffix('_requirements'): v.split() for k, v in s.items() if k.endswith('_requirements')}


class WithNotebooks(build_py):
    "The notebooks go into the wheel as pcdistill/notebooks; an editable installation reads them in nbs."

    def run(self):
        super().run()
        if not self.editable_mode:
            to = Path(self.build_lib)/s['lib_path']/'notebooks'
            copytree(here/s['nbs_path'], to, ignore=ignore_patterns('.*', '_*'), dirs_exist_ok=True)


setup(
    name=s['lib_name'],
    version=s['version'],
    description=s['description'],
    long_description=readme.read_text(encoding='utf-8') if readme.is_file() else s['description'],
    long_description_content_type='text/markdown',
    keywords=s['keywords'],
    author=s['author'],
    author_email=s['author_email'],
    license='Apache-2.0',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    python_requires=f">={s['min_python']}",
    packages=find_packages(include=[s['lib_path'], f"{s['lib_path']}.*"]),
    package_data={s['lib_path']: ['assets/**/*', 'py.typed']},
    install_requires=s['requirements'].split(),
    extras_require=extra | {'app': extra['lab'] + extra['app'], 'dev': extra['lab'] + extra['dev']},
    cmdclass={'build_py': WithNotebooks},
    entry_points={'console_scripts': s['console_scripts'].split()},
    zip_safe=False,
)
