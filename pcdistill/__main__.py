from pcdistill.recipe import main

if __name__=='__main__': raise SystemExit(main())
