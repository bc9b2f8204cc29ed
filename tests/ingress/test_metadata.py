from symphony.ingress.metadata import index_entry, model_config, model_metadata, server_metadata


def test_server_metadata_names_the_extensions(service):
    assert server_metadata(service) == {
        "name": "symphony",
        "version": "0.1.0",
        "extensions": [
            "binary_tensor_data",
            "classification",
            "model_configuration",
            "model_profiling",
            "model_repository",
            "schedule_policy",
            "statistics",
        ],
    }


def test_model_metadata_has_a_batch_dimension_first(service):
    assert model_metadata(service.find("pair", None).config, ["1", "2"]) == {
        "name": "pair",
        "versions": ["1", "2"],
        "platform": "symphony_emulated",
        "inputs": [
            {"name": "a", "datatype": "INT64", "shape": [-1, 2, 3]},
            {"name": "b", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }


def test_model_config_is_what_triton_clients_read(service):
    config = model_config(service.find("pair", None).config)
    assert config["max_batch_size"] == 8
    inputs = [(each["name"], each["data_type"], each["dims"]) for each in config["input"]]
    assert inputs == [("a", "TYPE_INT64", [2, 3]), ("b", "TYPE_STRING", [])]
    outputs = [(each["name"], each["data_type"], each["dims"]) for each in config["output"]]
    assert outputs == [("y", "TYPE_FP32", [2])]
    assert config["version_policy"] == {"specific": {"versions": [1]}}
    assert config["dynamic_batching"]["default_priority_level"] == 4
    assert config["model_transaction_policy"] == {"decoupled": False}
    assert config["parameters"] == {"slo_ms": {"string_value": "50"}, "deep": {"string_value": "true"}}


def test_index_entry_says_state_and_reason(service):
    model = service.find("scale", None)
    model.state, model.reason = "UNAVAILABLE", "unloaded"
    assert index_entry(model) == {"name": "scale", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
