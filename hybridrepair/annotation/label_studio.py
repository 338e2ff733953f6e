"""Label Studio: the tasks and the labelling interface that it imports, and the annotations that it exports.

Source: Label Studio's documentation, "Import pre-annotated data" and "Label Studio JSON format of annotated tasks".
"""
import json
import re
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import quoteattr

from hybridrepair.annotation.answer import Answer
from hybridrepair.base.errors import UserError, reason_of
from hybridrepair.images.identity import Identity

TASKS, CONFIG, IMAGES = "tasks.json", "label_config.xml", "images"  # what is written into the folder of questions
LABEL, IMAGE = "label", "image"  # of the interface; data holds the image under the same name
CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # signs that no XML holds, also not escaped
ID, DIGEST = "image_id", "digest"  # in the data of a task: JSON-MIN puts the task's own number under "id"


def config(class_names: list[str]) -> str:
    """The labelling interface: one image, one choice. UserError for a name that XML cannot hold."""
    for name in class_names:
        if CONTROL.search(name):
            raise UserError(f"class {name!r} has a control sign in its name, which Label Studio cannot read; rename the class, or "
                            "leave out --format label-studio")
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in class_names)
    return (f'<View>\n  <Image name="{IMAGE}" value="${IMAGE}"/>\n  <Choices name="{LABEL}" toName="{IMAGE}" choice="single" '
            f'showInLine="true">\n{choices}  </Choices>\n</View>\n')


def task(identity: Identity, file: str, told: dict, predicted: str, score: float, model: str) -> dict:
    """One task: the image `file` below the document root, what is told about it, and the prediction to begin with."""
    choice = {"from_name": LABEL, "to_name": IMAGE, "type": "choices", "value": {"choices": [predicted]}}
    return {"data": {IMAGE: f"/data/local-files/?d={file}", ID: identity.id, DIGEST: identity.digest, **told},
            "predictions": [{"model_version": model, "score": score, "result": [choice]}]}


def read(path: Path, what: str) -> list[Answer]:
    """The answers in an export, JSON or JSON-MIN; a cancelled or empty annotation is one without a label.

    UserError if it is something else, or an annotation has several classes, or a choice that is no text.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        tasks = content if isinstance(content, list) else [content]
        if not all(isinstance(each, dict) for each in tasks):
            raise ValueError("it is no list of tasks")
        return [answer for each in tasks for answer in answers_of(each, f"{what} {path}, task {each.get('id', '?')}")]
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UserError(f"{what} {path} cannot be read as an export of Label Studio ({reason_of(error)}); export it as JSON or "
                        "JSON-MIN") from error


def answers_of(task: dict, where: str) -> Iterator[Answer]:
    """The answers of one task: an annotation each in JSON, its one annotation in JSON-MIN."""
    data = task["data"] if "data" in task else task
    if ID not in data:
        raise UserError(f"{where}: there is no {ID}, so it is not of {TASKS}; import that file, and export its tasks")
    identity = Identity(str(data[ID]), str(data.get(DIGEST, "")))
    if data is task:
        choice = task.get(LABEL)
        while isinstance(choice, dict | list) and len(choice) == 1:  # one choice is a text, several are [{"choices": [...]}]
            choice = next(iter(choice.values() if isinstance(choice, dict) else choice))
        choices = choice if isinstance(choice, list) else [] if choice is None else [choice]
        yield Answer(where, identity, label_of(choices, where), annotator_of(task.get("annotator")))
        return
    unnamed = 0
    for each in task.get("annotations") or []:
        place = f"{where}, annotation {each['id']}" if "id" in each else where
        if each.get("was_cancelled"):
            yield Answer(place, identity, "", missing="cancelled")
            continue
        chosen = [choice for result in each["result"] if result.get("from_name") == LABEL
                  for choice in listed(result["value"]["choices"])]
        label, annotator = label_of(chosen, place), annotator_of(each.get("completed_by"))
        if label and not annotator:  # each annotation of a task is another annotator's, while those of a doubled task are not
            unnamed += 1
            annotator = f"{unnamed} of the task" if unnamed > 1 else ""
        yield Answer(place, identity, label, annotator)
    if not task.get("annotations"):
        yield Answer(where, identity, "")


def listed(choices: object) -> list:
    """The choices of a result. TypeError where they are no list: of a text or a dict the parts would be taken for choices."""
    if not isinstance(choices, list):
        raise TypeError(f"choices is a {type(choices).__name__}, not a list")
    return choices


def label_of(choices: list[object], where: str) -> str:
    """The one class that was chosen, "" for none. UserError for several, and for what is no text."""
    if len(choices) > 1:
        raise UserError(f"{where}: there are {len(choices)} classes ({', '.join(map(str, choices))}); choose one")
    label = choices[0] if choices else ""
    if not isinstance(label, str):
        raise UserError(f"{where}: the choice {label!r} is no text, so it names no class; choose among those of {CONFIG}")
    return label


def annotator_of(value: object) -> str:
    """Who annotated: a number, or a dict with one; "" where it is not said."""
    if isinstance(value, dict):
        value = value.get("id", value.get("email"))
    return "" if value is None else str(value)
