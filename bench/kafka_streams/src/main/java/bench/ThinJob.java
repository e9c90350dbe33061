package bench;

import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.annotation.JsonPropertyOrder;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The thin job (bench/jobs/thin.py) in Kafka Streams: the processor API, bytes on the wire, a RocksDB store with its
 * cache and changelog. Everything else is Kafka Streams' default, but for the compression, which is that of all but
 * ours.
 */
public final class ThinJob {
  private static final String STORE = "rows";

  private static final Map<String, String> STATUS =
      Map.of(
          "processed", "sent",
          "deferred", "deferred",
          "bounce", "bounced",
          "delivered", "delivered",
          "open", "opened",
          "dropped", "dropped");

  /** What bench.contestants.Task says. */
  @JsonIgnoreProperties(ignoreUnknown = true)
  record Task(
      String bootstrap,
      String source,
      Map<String, String> outputs,
      String group,
      String folder,
      String compression,
      Map<String, String> options) {}

  @JsonIgnoreProperties(ignoreUnknown = true)
  record Event(String event, long timestamp, String email) {}

  @JsonPropertyOrder({"status", "at", "email"})
  record Row(String status, long at, String email) {}

  @JsonPropertyOrder({"id", "from", "to"})
  record Change(String id, @JsonProperty("from") String before, @JsonProperty("to") String after) {}

  /** Folds one event into its row and forwards a change. */
  private static final class Fold implements Processor<byte[], byte[], byte[], byte[]> {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final ObjectReader EVENT = JSON.readerFor(Event.class);
    private static final ObjectReader ROW = JSON.readerFor(Row.class);
    private static final ObjectWriter WRITE = JSON.writer();

    private ProcessorContext<byte[], byte[]> context;
    private KeyValueStore<Bytes, byte[]> rows;

    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
      this.context = context;
      this.rows = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      try {
        Event event = EVENT.readValue(record.value());
        Bytes key = Bytes.wrap(record.key());
        byte[] kept = rows.get(key);
        String before = kept == null ? null : ROW.<Row>readValue(kept).status();
        String after = STATUS.get(event.event());
        rows.put(key, WRITE.writeValueAsBytes(new Row(after, event.timestamp(), event.email())));
        if (!after.equals(before)) {
          String id = new String(record.key(), StandardCharsets.UTF_8);
          context.forward(record.withValue(WRITE.writeValueAsBytes(new Change(id, before, after))));
        }
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }
  }

  private ThinJob() {}

  /** Does the job until it is killed. */
  public static void main(String[] arguments) throws IOException {
    Task task = new ObjectMapper().readValue(arguments[0], Task.class);
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, task.group());
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, task.bootstrap());
    settings.put(StreamsConfig.STATE_DIR_CONFIG, task.folder());
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, task.options().get("guarantee"));
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, task.options().getOrDefault("threads", "1"));
    settings.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
    settings.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), task.compression());

    Topology topology = new Topology();
    topology.addSource("source", task.source());
    topology.addProcessor("fold", Fold::new, "source");
    topology.addStateStore(
        Stores.keyValueStoreBuilder(
                Stores.persistentKeyValueStore(STORE), Serdes.Bytes(), Serdes.ByteArray())
            .withCachingEnabled(),
        "fold");
    topology.addSink("changed", task.outputs().get("changed"), "fold");

    KafkaStreams streams = new KafkaStreams(topology, settings);
    streams.setUncaughtExceptionHandler(
        error -> {
          error.printStackTrace();
          Runtime.getRuntime().halt(1);
          return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    streams.start();
  }
}
