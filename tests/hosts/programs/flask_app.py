"""Answer posted images in Flask under gunicorn: gunicorn --workers 2 flask_app:app

Without --preload every worker opens the model. With --preload the workers inherit it, and open it again when they first
use it.
"""

from flask import Flask, Response, abort, jsonify, make_response, request

from resnet_infer import Classifier, PictureError

app = Flask(__name__)
classifier = Classifier(threads=1)


@app.post("/")
def classify() -> Response:
    try:
        found = classifier.classify(request.get_data())
    except PictureError as error:
        abort(make_response({"detail": error.message}, 422))
    return jsonify([prediction.to_json() for prediction in found])
