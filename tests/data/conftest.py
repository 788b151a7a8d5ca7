from tests.data.hub import hub

__all__ = ["hub"]
