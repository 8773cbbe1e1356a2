BEGIN TRANSACTION;
CREATE TABLE deployments (
	name VARCHAR(128) NOT NULL, 
	generation BIGINT NOT NULL, 
	desired TEXT, 
	PRIMARY KEY (name)
);
INSERT INTO "deployments" VALUES('chat',3,'{"plan": {"context": 64, "decode_tokens_per_second": 40.0, "groups": 2, "hop_bytes": 288, "joules_per_token": 0.1, "kv_dtype": "float32", "manifest_digest": "0000000000000000000000000000000000000000000000000000000000000000", "model": "tiny", "objective": "latency", "prefill_chunk": 32, "slots_per_group": 8, "stages": [{"decode_joules": 0.05, "decode_seconds": 0.01, "device_id": "aaaaaaaaaaaaaaaa", "device_name": "dev-1", "first_layer": 0, "hollow": false, "kv_bytes": 200, "memory_bytes": 1073741824, "parts": ["embedding", "layers.0", "layers.1", "final_norm", "head"], "profile": "rk3588", "push_bytes": 1000, "simulated": true, "stop_layer": 2, "weight_bytes": 1000}, {"decode_joules": 0.05, "decode_seconds": 0.01, "device_id": "bbbbbbbbbbbbbbbb", "device_name": "dev-2", "first_layer": 2, "hollow": false, "kv_bytes": 200, "memory_bytes": 1073741824, "parts": ["layers.2"], "profile": "rk3588", "push_bytes": 1000, "simulated": true, "stop_layer": 3, "weight_bytes": 1000}], "why": ["two devices hold it"], "wire_dtype": "float32"}}');
INSERT INTO "deployments" VALUES('gone',2,NULL);
CREATE TABLE devices (
	device_id VARCHAR(64) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	hollow BOOLEAN NOT NULL, 
	PRIMARY KEY (device_id)
);
INSERT INTO "devices" VALUES('aaaaaaaaaaaaaaaa','dev-1',0);
CREATE TABLE pipeline_samples (
	device_id VARCHAR(64) NOT NULL, 
	boot_id VARCHAR(64) NOT NULL, 
	sample_index BIGINT NOT NULL, 
	pipeline_id VARCHAR(128) NOT NULL, 
	manifest_digest VARCHAR(64) NOT NULL, 
	prefill_tokens BIGINT NOT NULL, 
	decode_tokens BIGINT NOT NULL, 
	steps BIGINT NOT NULL, 
	busy_seconds FLOAT NOT NULL, 
	modelled_busy_seconds FLOAT NOT NULL, 
	busy_joules FLOAT, 
	sent_bytes BIGINT NOT NULL, 
	open_sequences BIGINT NOT NULL, 
	PRIMARY KEY (device_id, boot_id, sample_index, pipeline_id), 
	FOREIGN KEY(device_id, boot_id, sample_index) REFERENCES samples (device_id, boot_id, sample_index) ON DELETE CASCADE
);
INSERT INTO "pipeline_samples" VALUES('aaaaaaaaaaaaaaaa','boot',1,'chat-3','0000000000000000000000000000000000000000000000000000000000000000',4,3,4,0.4,0.2,1.5,100,0);
CREATE TABLE request_costs (
	request_id VARCHAR(64) NOT NULL, 
	device_id VARCHAR(64) NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	busy_seconds FLOAT NOT NULL, 
	modelled_busy_seconds FLOAT, 
	joules FLOAT, 
	PRIMARY KEY (request_id, device_id, source), 
	FOREIGN KEY(request_id) REFERENCES requests (request_id) ON DELETE CASCADE
);
INSERT INTO "request_costs" VALUES('r1','aaaaaaaaaaaaaaaa','modelled',0.4,0.2,1.5);
CREATE TABLE requests (
	request_id VARCHAR(64) NOT NULL, 
	finished_at FLOAT NOT NULL, 
	model VARCHAR(128) NOT NULL, 
	deployment VARCHAR(128) NOT NULL, 
	finish_reason VARCHAR(16) NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	completion_tokens BIGINT NOT NULL, 
	ttft_seconds FLOAT NOT NULL, 
	tpot_seconds FLOAT, 
	modelled_ttft_seconds FLOAT, 
	modelled_tpot_seconds FLOAT, 
	total_seconds FLOAT NOT NULL, 
	PRIMARY KEY (request_id)
);
INSERT INTO "requests" VALUES('r1',1000.0,'tiny','chat','stop',4,3,0.1,0.05,0.1,0.05,0.3);
CREATE TABLE samples (
	device_id VARCHAR(64) NOT NULL, 
	boot_id VARCHAR(64) NOT NULL, 
	sample_index BIGINT NOT NULL, 
	received_at FLOAT NOT NULL, 
	uptime_seconds FLOAT NOT NULL, 
	source VARCHAR(16) NOT NULL, 
	busy_joules FLOAT, 
	idle_joules FLOAT, 
	power_watts FLOAT, 
	temperature_celsius FLOAT, 
	memory_used_bytes BIGINT NOT NULL, 
	process_rss_bytes BIGINT NOT NULL, 
	process_cpu_seconds FLOAT NOT NULL, 
	PRIMARY KEY (device_id, boot_id, sample_index)
);
INSERT INTO "samples" VALUES('aaaaaaaaaaaaaaaa','boot',1,1000.0,5.0,'modelled',1.5,2.5,NULL,NULL,10,20,0.5);
CREATE TABLE schema_info (
	version INTEGER NOT NULL
);
INSERT INTO "schema_info" VALUES(2);
CREATE INDEX samples_by_time ON samples (received_at);
CREATE INDEX requests_by_time ON requests (finished_at);
COMMIT;
