from playloom import envs as envs
from playloom.actions.controller import ControllerState as ControllerState
from playloom.api import Model as Model
from playloom.api import load as load
from playloom.data.prompts import list_prompts as list_prompts
from playloom.envs import WorldModelEnv as WorldModelEnv
from playloom.envs import WorldModelVectorEnv as WorldModelVectorEnv
from playloom.errors import PlayloomError as PlayloomError
from playloom.inference.engine import Engine as Engine
from playloom.inference.sampling import Sampling as Sampling
from playloom.inference.session import Prompt as Prompt
from playloom.inference.session import Session as Session
from playloom.inference.session import StepInput as StepInput
from playloom.inference.session import StepResult as StepResult
from playloom.media.output_folder import GeneratedClip as GeneratedClip
from playloom.models.checkpoint import load_model as load_model
from playloom.models.folder import bundled_models as bundled_models

__version__: str
