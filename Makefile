# The same jobs as `python3 dev.py JOB`, for fingers that know make.
.PHONY: demo test thorough reports bench
demo test thorough reports bench:
	python3 dev.py $@
