// SPDX-License-Identifier: Apache-2.0
// A core between an external memory and a list of operations, all in Verilog, so that a simulation
// runs at the simulator's speed: cocotb only sets it up and waits for `finished`.
//
// Plusargs: +memory=FILE and +operations=FILE ($readmemh), +log=FILE (a line for each completion:
// tag, status, cycle, counters), +dump=FILE (the memory, written when `dump` rises), +samples=FILE
// and +sample=CYCLES (the counters, every so many cycles).
`timescale 1ns / 1ps
module core_bench (
    input clk,
    input rst,
    input [31:0] first_operation,   // operations first .. last - 1 are offered after each reset
    input [31:0] last_operation,
    input [31:0] latency,           // cycles from an accepted read request to its first beat
    input [31:0] limit,             // bytes of memory; accesses beyond it are answered with an error
    input [31:0] fault_low,         // accesses in fault_low .. fault_high - 1 likewise
    input [31:0] fault_high,
    input [7:0] stall_operation,    // out of 256: how often an offer or an acceptance is delayed
    input [7:0] stall_completion,
    input [7:0] stall_read,
    input [7:0] stall_write,
    input dump,
    output reg [31:0] completions,
    output finished
);
    parameter BEAT_BYTES = 8;
    parameter WORDS_LOG2 = 20;
    parameter COUNTER_BITS = 560;
    localparam BEAT_BITS = 8 * BEAT_BYTES;
    localparam SHIFT = $clog2(BEAT_BYTES);

    reg [BEAT_BITS-1:0] memory[0:(1<<WORDS_LOG2)-1];
    reg [511:0] operations[0:65535];
    reg [8*256-1:0] name;
    reg [31:0] sample, sample_left;
    integer log, samples;
    initial begin
        if ($value$plusargs("memory=%s", name)) $readmemh(name, memory);
        if ($value$plusargs("operations=%s", name)) $readmemh(name, operations);
        log = 0;
        if ($value$plusargs("log=%s", name)) log = $fopen(name, "w");
        samples = 0;
        if ($value$plusargs("samples=%s", name)) samples = $fopen(name, "w");
        if (!$value$plusargs("sample=%d", sample)) sample = 1;
    end
    always @(posedge dump) begin
        if ($value$plusargs("dump=%s", name)) $writememh(name, memory, 0, (limit >> SHIFT) - 1);
        $fflush(log);
        if (samples != 0) $fflush(samples);
    end

    reg [31:0] cycle;
    reg [63:0] random;
    wire [63:0] random_1 = random ^ (random << 13);
    wire [63:0] random_2 = random_1 ^ (random_1 >> 7);
    always @(posedge clk) begin
        cycle <= rst ? 0 : cycle + 1;
        random <= rst ? 64'h853c49e6748fea9b : random_2 ^ (random_2 << 17);
    end
    function bad(input [31:0] address);
        bad = address >= limit || (address >= fault_low && address < fault_high);
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
    // The core's counters are two cycles behind: then they are those of the completion
    reg [1:0] completed;
    reg [18:0] completed_as[0:1];
    reg [31:0] completed_at[0:1];
    always @(posedge clk) begin
        completion_ready <= random[7:0] >= stall_completion;
        completed <= rst ? 2'b0 : {completed[0], completion_valid && completion_ready};
        completed_as[0] <= completion[18:0];
        completed_at[0] <= cycle;
        completed_as[1] <= completed_as[0];
        completed_at[1] <= completed_at[0];
        if (rst) begin
            next_operation <= first_operation;
            operation_valid <= 0;
            completions <= 0;
        end else begin
            if (operation_valid && operation_ready) next_operation <= next_operation + 1;
            if (!operation_valid || operation_ready)
                operation_valid <= next_operation + {31'b0, operation_valid} < last_operation
                    && random[15:8] >= stall_operation;
            if (completed[1]) begin
                completions <= completions + 1;
                if (log != 0)
                    $fwrite(log, "%0d %0d %0d %h\n", completed_as[1][15:0],
                            completed_as[1][18:16], completed_at[1], counters);
            end
        end
    end

    reg [1:0] sampled;
    always @(posedge clk) begin
        sampled <= rst ? 2'b0 : {sampled[0], sample_left == 0};
        if (rst) sample_left <= sample - 1;
        else if (samples != 0) begin
            sample_left <= sample_left == 0 ? sample - 1 : sample_left - 1;
            if (sampled[1]) $fwrite(samples, "%h\n", counters);
        end
    end

    // Reads: requests wait for their latency, then leave a beat per cycle
    wire [47:0] read_request;
    wire read_request_valid, read_ready;
    reg read_request_ready, read_valid, read_error;
    reg [BEAT_BITS-1:0] read_data;
    reg [31:0] queue_address[0:63], queue_due[0:63];
    reg [15:0] queue_beats[0:63];
    reg [5:0] queue_in, queue_out;
    reg [15:0] beat;
    wire [5:0] queue_level = queue_in - queue_out;
    wire [31:0] beat_address = queue_address[queue_out] + {16'b0, beat} * BEAT_BYTES;
    wire beat_due = queue_level != 0 && cycle >= queue_due[queue_out] && random[23:16] >= stall_read;
    always @(posedge clk) begin
        read_request_ready <= queue_level < 60 && random[31:24] >= stall_read;
        if (rst) begin
            queue_in <= 0;
            queue_out <= 0;
            beat <= 0;
            read_valid <= 0;
        end else begin
            if (read_request_valid && read_request_ready) begin
                queue_address[queue_in] <= read_request[31:0];
                queue_beats[queue_in] <= read_request[47:32];
                queue_due[queue_in] <= cycle + latency - 1;
                queue_in <= queue_in + 1;
            end
            if (!read_valid || read_ready) begin
                read_valid <= beat_due;
                if (beat_due) begin
                    read_data <= memory[beat_address[SHIFT+:WORDS_LOG2]];
                    read_error <= bad(beat_address);
                    beat <= beat + 1;
                    if (beat + 1 == queue_beats[queue_out]) begin
                        beat <= 0;
                        queue_out <= queue_out + 1;
                    end
                end
            end
        end
    end

    // Writes: one request at a time, then its beats, then its response
    wire [47:0] write_request;
    wire [BEAT_BITS:0] write_data;
    wire write_request_valid, write_valid, response_ready;
    reg [31:0] write_address;
    reg writing, response_valid, response, write_ready;
    wire write_request_ready = !writing && !response_valid;
    always @(posedge clk) begin
        write_ready <= random[39:32] >= stall_write;
        if (rst) begin
            writing <= 0;
            response_valid <= 0;
        end else begin
            if (write_request_valid && write_request_ready) begin
                write_address <= write_request[31:0];
                writing <= 1;
                response <= 0;
            end
            if (writing && write_valid && write_ready) begin
                write_address <= write_address + BEAT_BYTES;
                if (bad(write_address)) response <= 1;
                else memory[write_address[SHIFT+:WORDS_LOG2]] <= write_data[BEAT_BITS-1:0];
                if (write_data[BEAT_BITS]) begin
                    writing <= 0;
                    response_valid <= 1;
                end
            end
            if (response_valid && response_ready) response_valid <= 0;
        end
    end

    rowwise core (
        .clk(clk), .rst(rst),
        .operation__payload(operations[next_operation[15:0]]),
        .operation__valid(operation_valid), .operation__ready(operation_ready),
        .completion__payload(completion), .completion__valid(completion_valid),
        .completion__ready(completion_ready),
        .read_request__payload(read_request), .read_request__valid(read_request_valid),
        .read_request__ready(read_request_ready),
        .read_data__payload({read_error, read_data}), .read_data__valid(read_valid),
        .read_data__ready(read_ready),
        .write_request__payload(write_request), .write_request__valid(write_request_valid),
        .write_request__ready(write_request_ready),
        .write_data__payload(write_data), .write_data__valid(write_valid),
        .write_data__ready(writing && write_ready),
        .write_response__payload(response), .write_response__valid(response_valid),
        .write_response__ready(response_ready),
        .counters(counters)
    );
endmodule
