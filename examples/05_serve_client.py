"""Request three steps from a running server. Start it first with `playloom serve`. Needs the extra `call`.

Argument: the server's address (default http://127.0.0.1:5000).
"""

import base64
import io
import os
import sys
from pathlib import Path

import httpx
from PIL import Image

from playloom.actions.codec import REST_VALUES
from playloom.data.prompts import find_prompt, load_prompt_file

address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:5000"
picture = io.BytesIO()
Image.fromarray(load_prompt_file(find_prompt("plaza-explorer")).frames_THWC[0]).save(picture, "PNG")
image = base64.b64encode(picture.getvalue()).decode()

context = [{"image": image, "actions": REST_VALUES.tolist(), "tokens": []}]
question = {"input_data": {"num_steps_to_predict": 3, "context": context, "seed": 0}}
key = os.environ.get("PLAYLOOM_API_KEY")
headers = {"Authorization": f"Bearer {key}"} if key else {}
answer = httpx.post(f"{address}/score", json=question, headers=headers, timeout=60)
answer.raise_for_status()

for number, step in enumerate(answer.json()["results"], 1):
    Path(f"step-{number}.png").write_bytes(base64.b64decode(step["image"]))
    print(f"wrote step-{number}.png; the model's input: {step['actions']}")
