import sys

def main() -> int:
    "Entry point of the console script; the imports take seconds, in which Ctrl-C is no error."
    try: from pcdistill.cli import main
    except KeyboardInterrupt:
        print('pcdistill: stopped', file=sys.stderr)
        return 130
    return main()

if __name__=='__main__': raise SystemExit(main())
