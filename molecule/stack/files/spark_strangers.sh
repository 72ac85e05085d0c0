#!/bin/bash
# What containers without Spark's secret get of the jobs' cluster from within its own network: spark_strangers.sh NETWORK
# Prints what they got and should not have. An application that is held for that time is a driver that they can ask.
set -euo pipefail
network=$1
spark=$(docker inspect --format '{{.Config.Image}}' spark-master)
logs=$(mktemp --directory)
trap 'docker rm --force held rogue-{worker,guessing,executor,driver} >/dev/null 2>&1 || true; rm -rf "$logs"' EXIT

workers() {
  docker exec spark-master python -c 'import json, urllib.request
print(json.load(urllib.request.urlopen("http://127.0.0.1:8080/json/"))["aliveworkers"])'
}

stranger() { # NAME COMMAND...: for half a minute at most
  docker run --rm --pull never --name "$1" --network "$network" --memory 640m --cap-drop ALL --env SPARK_LOG_LEVEL=info \
    "$spark" timeout 30 "${@:2}" >"$logs/$1" 2>&1 || true
}

cd /opt/lakehouse
before=$(workers)
docker compose --profile jobs run --detach --name held --entrypoint python jobs -c '
import time
from pyspark.sql import SparkSession
SparkSession.builder.config("spark.driver.port", 7999).config("spark.cores.max", 1).getOrCreate()
print("held", flush=True)
time.sleep(120)' >/dev/null

stranger rogue-worker spark-entrypoint worker spark://spark-master:7077 &
stranger rogue-guessing spark-class -Dspark.authenticate=true -Dspark.authenticate.secret=guessed \
  -Dspark.network.crypto.enabled=true org.apache.spark.deploy.worker.Worker spark://spark-master:7077 &
until docker logs held 2>&1 | grep -q '^held'; do
  [ "$(docker inspect --format '{{.State.Running}}' held)" = true ] || { docker logs held >&2; exit 1; }
  [ "$(workers)" = "$before" ] || { echo "a worker without the secret was registered"; break; }
  sleep 1
done

# An executor asks its driver for the whole configuration, in which the catalog's password is.
driver=$(docker inspect --format "{{(index .NetworkSettings.Networks \"$network\").IPAddress}}" held)
stranger rogue-executor spark-class org.apache.spark.executor.CoarseGrainedExecutorBackend \
  --driver-url "spark://CoarseGrainedScheduler@$driver:7999" --executor-id 99 --hostname rogue-executor --cores 1 \
  --app-id application --resourceProfileId 0 &
stranger rogue-driver python -c '
from pyspark.sql import SparkSession
builder = SparkSession.builder.master("spark://spark-master:7077").config("spark.cores.max", 1)
print("rows", builder.config("spark.executor.memory", "512m").getOrCreate().range(3).count())' &
wait
[ "$(workers)" = "$before" ] || echo "a worker without the secret is registered"

# What a link on the master's page would send
docker exec spark-master python -c '
import json, time, urllib.parse, urllib.request

def state():
    return json.load(urllib.request.urlopen("http://127.0.0.1:8080/json/"))

running = [application["id"] for application in state()["activeapps"]]
assert running, "the held application is not known"
for application in running:
    form = urllib.parse.urlencode({"id": application, "terminate": "true"}).encode()
    urllib.request.urlopen("http://127.0.0.1:8080/app/kill/", form).read()
time.sleep(2)
if [application["id"] for application in state()["activeapps"]] != running:
    print("a page ended an application")
if "kill" in urllib.request.urlopen("http://127.0.0.1:8080/").read().decode():
    print("a page offers to end an application")'
! grep -q 'MemoryStore started' "$logs/rogue-executor" || echo "an executor without the secret got the configuration"
! grep -q '^rows 3' "$logs/rogue-driver" || echo "an application without the secret ran"
# They were there and were refused: a container that never ran proves nothing.
grep -qi 'connect' "$logs/rogue-worker" || { cat "$logs/rogue-worker" >&2; exit 1; }
grep -q 'TransportClient\|Unable to create executor\|RpcEnv' "$logs/rogue-executor" || { cat "$logs/rogue-executor" >&2; exit 1; }
