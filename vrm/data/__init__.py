"""What people made: demonstrations, and preferences and ratings of videos, read from local folders."""

from vrm.data.demo_files import load_demos as load_demos
from vrm.data.demos import Demo as Demo
from vrm.data.demos import DemoError as DemoError
from vrm.data.preferences import FORMATS as FORMATS
from vrm.data.preferences import load_preferences as load_preferences
from vrm.data.records import OVERALL as OVERALL
from vrm.data.records import BenchmarkError as BenchmarkError
from vrm.data.records import Label as Label
from vrm.data.records import PreferencePair as PreferencePair
from vrm.data.records import PreferenceSet as PreferenceSet
from vrm.data.records import RatedVideo as RatedVideo
from vrm.data.records import RatingSet as RatingSet
from vrm.data.records import read_label as read_label
