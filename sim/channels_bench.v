// SPDX-License-Identifier: Apache-2.0
// The SpAtten core between a memory of CHANNELS channels and a list of operations, all in Verilog:
// cocotb only sets it up and waits for `finished`. Beat n of channel c is word n * CHANNELS + c.
//
// Plusargs: as for core_bench.v, without samples.
`timescale 1ns / 1ps
module channels_bench (
    input clk,
    input rst,
    input [31:0] first_operation,   // operations first .. last - 1 are offered after each reset
    input [31:0] last_operation,
    input [31:0] latency,           // cycles from an accepted read request to its first beat
    input [31:0] limit,             // words of memory; accesses beyond are answered with an error
    input [31:0] fault_low,         // words fault_low .. fault_high - 1 likewise
    input [31:0] fault_high,
    input [7:0] stall_operation,    // out of 256: how often an offer or an acceptance is delayed
    input [7:0] stall_completion,
    input [7:0] stall_read,
    input [7:0] stall_write,
    input dump,
    output reg [31:0] completions,
    output finished
);
    parameter CHANNELS = 2;
    parameter BEAT_BYTES = 8;
    parameter WORDS_LOG2 = 20;
    parameter COUNTER_BITS = 280;
    parameter CHANNEL_BITS = 1;
    localparam BEAT_BITS = 8 * BEAT_BYTES;
    localparam SHIFT = $clog2(BEAT_BYTES);

    reg [BEAT_BITS-1:0] memory[0:(1<<WORDS_LOG2)-1];
    reg [511:0] operations[0:65535];
    reg [8*256-1:0] name;
    integer log;
    initial begin
        if ($value$plusargs("memory=%s", name)) $readmemh(name, memory);
        if ($value$plusargs("operations=%s", name)) $readmemh(name, operations);
        log = 0;
        if ($value$plusargs("log=%s", name)) log = $fopen(name, "w");
    end
    always @(posedge dump) begin
        if ($value$plusargs("dump=%s", name)) $writememh(name, memory, 0, limit - 1);
        $fflush(log);
    end

    reg [31:0] cycle;
    reg [63:0] random;
    wire [63:0] random_1 = random ^ (random << 13);
    wire [63:0] random_2 = random_1 ^ (random_1 >> 7);
    always @(posedge clk) begin
        cycle <= rst ? 0 : cycle + 1;
        random <= rst ? 64'h853c49e6748fea9b : random_2 ^ (random_2 << 17);
    end
    function bad(input [31:0] word);
        bad = word >= limit || (word >= fault_low && word < fault_high);
    endfunction

    // Operations and completions
    reg [31:0] next_operation;
    reg operation_valid;
    wire operation_ready;
    wire completion_valid;
    wire [18:0] completion;
    reg completion_ready;
    wire [COUNTER_BITS-1:0] counters;
    assign finished = completions == last_operation - first_operation;
    always @(posedge clk) begin
        completion_ready <= random[7:0] >= stall_completion;
        if (rst) begin
            next_operation <= first_operation;
            operation_valid <= 0;
            completions <= 0;
        end else begin
            if (operation_valid && operation_ready) next_operation <= next_operation + 1;
            if (!operation_valid || operation_ready)
                operation_valid <= next_operation + {31'b0, operation_valid} < last_operation
                    && random[15:8] >= stall_operation;
            if (completion_valid && completion_ready) begin
                completions <= completions + 1;
                if (log != 0)
                    $fwrite(log, "%0d %0d %0d %h\n", completion[15:0], completion[18:16], cycle,
                            counters);
            end
        end
    end

    // Reads: in each channel, requests wait for their latency, then leave a beat per cycle
    wire [48*CHANNELS-1:0] request;
    wire [CHANNELS-1:0] request_valid, read_ready;
    wire [CHANNELS-1:0] request_ready, read_valid, read_error;
    wire [BEAT_BITS*CHANNELS-1:0] read_data;
    genvar c;
    generate for (c = 0; c < CHANNELS; c = c + 1) begin : channel
        reg ready, valid, error;
        reg [BEAT_BITS-1:0] data;
        reg [31:0] queue_word[0:127], queue_due[0:127];
        reg [15:0] queue_beats[0:127];
        reg [6:0] queue_in, queue_out;
        reg [15:0] beat;
        wire [6:0] level = queue_in - queue_out;
        wire [31:0] word = (queue_word[queue_out] + {16'b0, beat}) * CHANNELS + c;
        wire [7:0] draw = random[(c * 5) % 48 +: 8], other = random[(c * 7 + 16) % 48 +: 8];
        wire due = level != 0 && cycle >= queue_due[queue_out] && draw >= stall_read;
        assign request_ready[c] = ready;
        assign read_valid[c] = valid;
        assign read_error[c] = error;
        assign read_data[BEAT_BITS*c+:BEAT_BITS] = data;
        always @(posedge clk) begin
            ready <= level < 124 && other >= stall_read;
            if (rst) begin
                queue_in <= 0;
                queue_out <= 0;
                beat <= 0;
                valid <= 0;
            end else begin
                if (request_valid[c] && ready) begin
                    queue_word[queue_in] <= request[48*c+:32] >> SHIFT;
                    queue_beats[queue_in] <= request[48*c+32+:16];
                    queue_due[queue_in] <= cycle + latency - 1;
                    queue_in <= queue_in + 1;
                end
                if (!valid || read_ready[c]) begin
                    valid <= due;
                    if (due) begin
                        data <= memory[word[WORDS_LOG2-1:0]];
                        error <= bad(word);
                        beat <= beat + 1;
                        if (beat + 1 == queue_beats[queue_out]) begin
                            beat <= 0;
                            queue_out <= queue_out + 1;
                        end
                    end
                end
            end
        end
    end endgenerate

    // Writes: one request at a time, then its beats, then its response
    wire [47+CHANNEL_BITS:0] write_request;
    wire [BEAT_BITS:0] write_data;
    wire write_request_valid, write_valid, response_ready;
    reg [31:0] write_word;
    reg writing, response_valid, response, write_ready;
    wire write_request_ready = !writing && !response_valid;
    always @(posedge clk) begin
        write_ready <= random[39:32] >= stall_write;
        if (rst) begin
            writing <= 0;
            response_valid <= 0;
        end else begin
            if (write_request_valid && write_request_ready) begin
                write_word <= (write_request[CHANNEL_BITS+:32] >> SHIFT) * CHANNELS
                    + {{(32-CHANNEL_BITS){1'b0}}, write_request[CHANNEL_BITS-1:0]};
                writing <= 1;
                response <= 0;
            end
            if (writing && write_valid && write_ready) begin
                write_word <= write_word + CHANNELS;
                if (bad(write_word)) response <= 1;
                else memory[write_word[WORDS_LOG2-1:0]] <= write_data[BEAT_BITS-1:0];
                if (write_data[BEAT_BITS]) begin
                    writing <= 0;
                    response_valid <= 1;
                end
            end
            if (response_valid && response_ready) response_valid <= 0;
        end
    end

    spatten core (
        .clk(clk), .rst(rst),
        .operation__payload(operations[next_operation[15:0]]),
        .operation__valid(operation_valid), .operation__ready(operation_ready),
        .completion__payload(completion), .completion__valid(completion_valid),
        .completion__ready(completion_ready),
        // CHANNEL PORTS
        .write_request__payload(write_request), .write_request__valid(write_request_valid),
        .write_request__ready(write_request_ready),
        .write_data__payload(write_data), .write_data__valid(write_valid),
        .write_data__ready(writing && write_ready),
        .write_response__payload(response), .write_response__valid(response_valid),
        .write_response__ready(response_ready),
        .counters(counters)
    );
endmodule
