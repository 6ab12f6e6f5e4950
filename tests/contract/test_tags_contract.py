"""Tags against moto's EC2."""

import pytest

from flashboot.cloud.clients import ec2_client
from flashboot.cloud.settings import CloudSettings
from flashboot.cloud.tags import read_tags, write_tags
from tests.rig.motoserver import REGION, MotoServer

pytestmark = pytest.mark.server


def test_tags_go_there_and_back(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    ec2 = ec2_client(CloudSettings(region=REGION, endpoints={"ec2": moto.endpoint}))
    instance_id, volume_id = moto.make_instance(root_gib=12)
    assert volume_id.startswith("vol-")
    assert read_tags(ec2, instance_id) == {}
    ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "Name", "Value": "db-1"}])
    write_tags(ec2, instance_id, {"status": "flashing", "note": "a\nb" + "x" * 300})
    write_tags(ec2, instance_id, {"status": "serving"})
    found = read_tags(ec2, instance_id)
    assert found["status"] == "serving"
    assert found["note"].startswith("a bx")
    assert len(found["note"]) == 256
    assert set(found) == {"status", "note"}
    write_tags(ec2, instance_id, {})
