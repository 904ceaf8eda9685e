"The package's metadata is in settings.ini, one place; here it is handed to setuptools."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here/'settings.ini', encoding='utf-8')
s = ini['DEFAULT']
readme = here/'README.md'

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
    package_data={s['lib_path']: ['assets/**/*']},
    install_requires=s['requirements'].split(),
    extras_require={'dev': s['dev_requirements'].split(), 'browser': s['browser_requirements'].split()},
    entry_points={'console_scripts': s['console_scripts'].split()},
    zip_safe=False,
)
