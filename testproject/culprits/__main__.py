import signal
import sys

if __name__ == "__main__":
    # Until the run takes over, nothing is started that would need a clean end: Ctrl-C shows no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from testproject.culprits.run import main

    sys.exit(main())
